// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace polymoe {

/// Who chooses a token's experts. For measuring: all but the router itself take the choice from it,
/// so that what a step costs can be told from how evenly it is routed.
enum class Routing : std::uint8_t {
  router,    // what the weights say
  balanced,  // at random, each expert as often: what a well trained router comes near to
  skewed,    // at random, the n-th expert 1 / sqrt(n) as often: the first rank has most rows
};

/// The experts of each token of a sequence: [length * top_k], different ones within a token.
///
/// A pure function of (layer, position in the sequence), so that a token has the same experts under
/// any layout. `balanced` lays each block of `experts` tokens out on one random order of the
/// experts: token t of the block has those at top_k random places, moved on by t, so that every
/// expert is chosen top_k times. `skewed` draws without replacement.
std::vector<std::int32_t> measured_choices(Routing routing, const std::string& layer,
                                           std::int64_t length, std::int64_t experts,
                                           std::int64_t top_k);

}  // namespace polymoe
