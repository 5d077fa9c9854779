// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/documents.h"
#include "moe/language_model.h"
#include "parallel/communication/local/local_communicator.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/execution.h"
#include "support/compare.h"
#include "support/fixture.h"
#include "support/hashed_values.h"
#include "support/random_tensor.h"

namespace polymoe::test {

/// The batch of a case of tests/reference/language_model.py.
struct ReferenceBatch {
  static constexpr std::int64_t sequences = 4, length = 7;

  explicit ReferenceBatch(const std::string& name, std::int64_t vocab)
      : tokens(hashed_integers(name + ".tokens", sequences * length, vocab)),
        targets(hashed_integers(name + ".targets", sequences * length, vocab)) {
    if (name != "dense") return;
    for (std::int64_t t = 3; t < length; ++t) targets->data<std::int32_t>()[length + t] = -1;
  }

  /// Sequences [begin, end).
  TokenBatch slice(std::int64_t begin, std::int64_t end) const {
    return {.tokens = tokens->rows(begin * length, end * length),
            .targets = targets->rows(begin * length, end * length),
            .sequences = end - begin,
            .length = length};
  }
  std::int64_t predicted() const {
    std::int64_t count = 0;
    for (const double target : values_of(*targets)) count += target >= 0 ? 1 : 0;
    return count;
  }

  OwnedTensor tokens, targets;
};

/// Has the documents and the padding of tests/reference/language_model.py too.
struct DocumentsBatch : ReferenceBatch {
  static constexpr std::int64_t padding = 4;

  DocumentsBatch(const std::string& name, std::int64_t vocab) : ReferenceBatch(name, vocab) {
    const std::vector<std::vector<std::int64_t>> documents = {
        {0, 7}, {0, 3, 7}, {0, 1, 4, 6}, {0, 2, 4}};
    auto* id = tokens->data<std::int32_t>();
    auto* target = targets->data<std::int32_t>();
    auto* start = starts->data<std::int32_t>();
    for (const std::vector<std::int64_t>& ends : documents) {
      for (std::int64_t at = 0, next = 1; at < length; ++at, ++id, ++target, ++start) {
        if (at == ends.at(static_cast<std::size_t>(next)) && at < ends.back()) ++next;
        *start = static_cast<std::int32_t>(ends.at(static_cast<std::size_t>(next) - 1));
        const bool last = at + 1 == ends.at(static_cast<std::size_t>(next)) && at + 1 < length;
        if (last || at >= ends.back()) *target = -1;
        if (at < ends.back()) continue;
        *id = 0;
        *start = no_document;
      }
    }
  }

  TokenBatch slice(std::int64_t begin, std::int64_t end) const {
    TokenBatch batch = ReferenceBatch::slice(begin, end);
    batch.document_starts = starts->rows(begin * length, end * length);
    return batch;
  }

  OwnedTensor starts{{sequences * length}, DType::i32, Device::cpu()};
};

/// The models of tests/reference/language_model.py.
inline ModelConfig reference_config(const std::string& name) {
  ModelConfig config;
  config.layers = 2;
  config.vocab = 19;
  config.context = ReferenceBatch::length;
  config.moe.balance_loss = 0.05;
  config.moe.z_loss = 0.02;
  if (name == "moe") {
    config.hidden = 16;
    config.heads = 4;
    config.kv_heads = 2;
    config.qk_norm = true;
    config.moe.experts = 4;
    config.moe.top_k = 2;
    config.moe.expert_ffn = 8;
    return config;
  }
  config.hidden = 8;
  config.heads = 2;
  if (name == "shared") {
    config.ffn = 10;
    config.activation.order = 2;
    config.moe.dense_layers = {0};
    config.moe.experts = 4;
    config.moe.top_k = 3;
    config.moe.expert_ffn = 6;
    config.moe.shared_experts = 2;
    config.moe.router.scores = RouterScores::sigmoid;
    config.moe.router.normalize = true;
    config.moe.coefficients_per_expert = true;
    config.moe.balance_scope = BalanceScope::rank;
  } else {
    config.ffn = 12;
    config.tied = true;
    config.activation.kind = ActivationKind::swiglu;
  }
  return config;
}

/// One rank with a model and everything it runs on.
class ModelRank {
 public:
  ModelRank(const ModelConfig& config, std::unique_ptr<Communicator> world, int expert_parallel,
            DType dtype, Device device = Device::cpu(), int node_ranks = 1)
      : mesh(std::move(world), expert_parallel, node_ranks),
        store(mesh),
        model(config, mesh, store),
        execution({.device = device, .capacity = std::size_t{1} << 30, .poison = true}) {
    store.allocate(dtype, device);
  }
  ModelRank(const ModelConfig& config, DType dtype, Device device = Device::cpu())
      : ModelRank(config, std::move(make_local_communicators(1).front()), 1, dtype, device) {}

  /// Calls visit(logical name, value, gradient) for every logical tensor of this rank.
  void for_each_tensor(
      const std::function<void(const LogicalTensor&, const Tensor&, const Tensor&)>& visit) const {
    for (const Parameter& parameter : store.parameters()) {
      const auto stacked = static_cast<std::int64_t>(parameter.logical.size());
      const Shape rows{stacked, parameter.shape.elements() / stacked};
      for (std::int64_t i = 0; i < stacked; ++i) {
        const LogicalTensor& tensor = parameter.logical[static_cast<std::size_t>(i)];
        visit(tensor, parameter.value.view(rows).rows(i, i + 1).view(tensor.shape),
              parameter.gradient.view(rows).rows(i, i + 1).view(tensor.shape));
      }
    }
  }
  void fill_with_reference_values() {
    for_each_tensor([](const LogicalTensor& tensor, const Tensor& value, const Tensor&) {
      fill_hashed(tensor.name, parameter_distribution(tensor.name, tensor.shape), value);
    });
  }
  /// Sums gradients over the ranks that hold them.
  void reduce_gradients() {
    for (const ParameterScope scope : {ParameterScope::dense, ParameterScope::expert}) {
      store.group(scope).all_reduce(store.gradients(scope), Reduction::sum, context.stream);
    }
  }
  std::map<std::string, std::vector<double>> gradients() const {
    std::map<std::string, std::vector<double>> result;
    for_each_tensor([&](const LogicalTensor& tensor, const Tensor&, const Tensor& gradient) {
      result[tensor.name] = values_of(gradient);
    });
    return result;
  }

  ProcessMesh mesh;
  ParameterStore store;
  LanguageModel model;
  Execution execution;
  ExecutionContext& context = execution.context();
};

/// ||a - b|| / ||b||, and ||a|| where b is zero.
inline double norm_wise_error(const std::vector<double>& a, const std::vector<double>& b) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    error += (a.at(i) - b[i]) * (a.at(i) - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(size > 0 ? error / size : error);
}

}  // namespace polymoe::test
