// SPDX-License-Identifier: Apache-2.0
#include "moe/measured_routing.h"

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
namespace {

using Experts = std::vector<std::int32_t>;

/// 0 ... n - 1 by ascending keys.
template <class Key>
Experts sorted_by(std::int64_t n, const Key& key) {
  std::vector<double> keys;
  for (std::int64_t i = 0; i < n; ++i) keys.push_back(key(i));
  Experts order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
  });
  return order;
}

Experts balanced_choices(const RandomStream& random, std::int64_t length, std::int64_t experts,
                         std::int64_t top_k) {
  Experts choices;
  for (std::int64_t first = 0; first < length; first += experts) {
    const auto index = static_cast<std::uint64_t>(2 * first);
    const auto drawn = [&](std::uint64_t from) {
      return sorted_by(experts, [&](std::int64_t i) {
        return random.uniform(index + from + static_cast<std::uint64_t>(i));
      });
    };
    const Experts order = drawn(0), places = drawn(static_cast<std::uint64_t>(experts));
    for (std::int64_t t = 0; t < std::min(experts, length - first); ++t) {
      for (std::int64_t j = 0; j < top_k; ++j) {
        const std::int64_t place = (t + places[static_cast<std::size_t>(j)]) % experts;
        choices.push_back(order[static_cast<std::size_t>(place)]);
      }
    }
  }
  return choices;
}

/// The top_k smallest of exponential times, whose rates are the experts' shares.
Experts skewed_choices(const RandomStream& random, std::int64_t length, std::int64_t experts,
                       std::int64_t top_k) {
  Experts choices;
  for (std::int64_t t = 0; t < length; ++t) {
    const Experts order = sorted_by(experts, [&](std::int64_t e) {
      const auto index = static_cast<std::uint64_t>(t * experts + e);
      return -std::log1p(-random.uniform(index)) * std::sqrt(static_cast<double>(e + 1));
    });
    choices.insert(choices.end(), order.begin(), order.begin() + top_k);
  }
  return choices;
}

}  // namespace

Experts measured_choices(Routing routing, const std::string& layer, std::int64_t length,
                         std::int64_t experts, std::int64_t top_k) {
  const RandomStream random(0, layer);
  switch (routing) {
    case Routing::router:
      break;
    case Routing::balanced:
      return balanced_choices(random, length, experts, top_k);
    case Routing::skewed:
      return skewed_choices(random, length, experts, top_k);
  }
  throw InvalidArgument("measured_choices: the router's choices are not known here");
}

}  // namespace polymoe
