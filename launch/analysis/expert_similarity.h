// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace polymoe {

/// Cosines between each two experts of a layer.
struct ExpertSimilarity {
  std::int64_t layer = 0;
  std::int64_t experts = 0;
  std::vector<double> cosines = {};  // [experts, experts]
};

}  // namespace polymoe
