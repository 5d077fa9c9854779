// SPDX-License-Identifier: Apache-2.0
#include "launch/analysis/expert_outputs.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/embedding/embedding.h"
#include "launch/analysis/expert_similarity.h"
#include "launch/analysis/host_rows.h"
#include "moe/moe_layer.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

namespace polymoe {

void ExpertOutputs::add(const MoeLayer& layer, std::int64_t experts, const Tensor& x,
                        ExecutionContext& context) {
  const std::int64_t rows = x.dim(0), hidden = x.dim(1);
  const std::int64_t affordable = most_bytes / 4 / experts / hidden;
  const std::int64_t taken = std::min(rows, std::clamp<std::int64_t>(affordable, 1, most_rows));
  if (taken < 1) return;
  std::vector<std::int32_t> places(static_cast<std::size_t>(taken));
  for (std::int64_t i = 0; i < taken; ++i)
    places[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i * rows / taken);
  const Arena::Scope scope(context.arena);
  const Tensor rows_of_sample = context.arena.allocate({taken}, DType::i32);
  set_values(std::span<const std::int32_t>(places), rows_of_sample, context.stream);
  const Tensor sample = context.arena.allocate({taken, hidden}, x.dtype());
  const Tensor made = context.arena.allocate({taken, hidden}, x.dtype());
  embedding_forward(rows_of_sample, x, sample, context.stream);

  std::vector<std::vector<float>> outputs;  // of each expert, rows of length one
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    layer.apply_expert(expert, sample, made, context);
    outputs.push_back(host_rows(made, context));
    normalize_rows(outputs.back(), hidden);
  }
  experts_ = experts;
  tokens_ += taken;
  const auto count = static_cast<std::size_t>(experts);
  sums_.resize(count * count);
  for (std::size_t a = 0; a < count; ++a) {
    for (std::size_t b = 0; b <= a; ++b) {
      double sum = 0.0;
      for (std::size_t i = 0; i < outputs[a].size(); ++i)
        sum += static_cast<double>(outputs[a][i]) * static_cast<double>(outputs[b][i]);
      sums_[a * count + b] += sum;
    }
  }
}

ExpertSimilarity ExpertOutputs::finish(std::int64_t layer) const {
  ExpertSimilarity similarity{.layer = layer, .experts = experts_, .cosines = sums_};
  const auto count = static_cast<std::size_t>(experts_);
  for (std::size_t a = 0; a < count; ++a)
    for (std::size_t b = 0; b <= a; ++b)
      similarity.cosines[a * count + b] = similarity.cosines[b * count + a] =
          sums_[a * count + b] / static_cast<double>(tokens_);
  return similarity;
}

}  // namespace polymoe
