// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "launch/analysis/expert_similarity.h"
#include "moe/moe_layer.h"
#include "runtime/context.h"

namespace polymoe {

/// How alike the experts of one layer answer: the mean over tokens of the cosine between what each
/// two of them make of a token, whichever experts the router chose. A token of which an expert
/// makes nothing (zeros) counts as a cosine of 0.
class ExpertOutputs {
 public:
  /// Applies all experts of the layer to a sample of the rows: `most_rows` evenly spaced ones, or
  /// fewer where the results of that many, f32 on the host, would exceed `most_bytes`; one at
  /// least. The layer's experts must all be on this rank.
  ///
  /// x [rows, hidden]  what the layer read
  void add(const MoeLayer& layer, std::int64_t experts, const Tensor& x, ExecutionContext& context);

  std::int64_t tokens() const { return tokens_; }
  ExpertSimilarity finish(std::int64_t layer) const;

  static constexpr std::int64_t most_rows = 256;
  static constexpr std::int64_t most_bytes = std::int64_t{256} << 20;

 private:
  std::int64_t experts_ = 0, tokens_ = 0;
  std::vector<double> sums_;  // [experts, experts], the lower triangle
};

}  // namespace polymoe
