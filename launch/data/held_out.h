// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace polymoe {

/// round(fraction * documents), but at least one and not all, of the numbers 0 .. documents - 1,
/// chosen by the seed: element i says whether document i is held out.
/// Throws InvalidArgument with fewer than two documents.
std::vector<bool> choose_held_out(std::size_t documents, double fraction, std::uint64_t seed);

}  // namespace polymoe
