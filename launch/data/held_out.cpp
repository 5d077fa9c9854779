// SPDX-License-Identifier: Apache-2.0
#include "launch/data/held_out.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/random.h"

namespace polymoe {

std::vector<bool> choose_held_out(std::size_t documents, double fraction, std::uint64_t seed) {
  if (documents < 2)
    throw InvalidArgument("--held-out: needs at least 2 documents, there is " +
                          std::to_string(documents) +
                          "; a document is a file, or what --document-separator separates");
  const auto wanted =
      static_cast<std::size_t>(std::llround(fraction * static_cast<double>(documents)));
  const std::size_t count = std::clamp<std::size_t>(wanted, 1, documents - 1);
  const RandomStream random(seed, "tokenize.held_out");
  std::vector<std::size_t> order(documents);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const std::uint64_t bits_a = random.bits(a), bits_b = random.bits(b);
    return bits_a != bits_b ? bits_a < bits_b : a < b;
  });
  std::vector<bool> held_out(documents, false);
  for (std::size_t i = 0; i < count; ++i) held_out[order[i]] = true;
  return held_out;
}

}  // namespace polymoe
