// SPDX-License-Identifier: Apache-2.0
#include "runtime/random.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace polymoe {

namespace {

double to_normal(const std::array<std::uint32_t, 4>& bits) {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform_of(bits[0], bits[1])));
  return radius * std::cos(2.0 * std::numbers::pi * uniform_of(bits[2], bits[3]));
}

}  // namespace

RandomStream::RandomStream(std::uint64_t seed, std::string_view name)
    : key_(seed), stream_(hash_of(name)) {}

std::uint64_t RandomStream::bits(std::uint64_t index) const {
  const auto value = philox(key_, stream_, index);
  return (std::uint64_t{value[0]} << 32) | value[1];
}

double RandomStream::uniform(std::uint64_t index) const {
  const auto value = philox(key_, stream_, index);
  return uniform_of(value[0], value[1]);
}

double RandomStream::normal(std::uint64_t index) const {
  return to_normal(philox(key_, stream_, index));
}

double RandomStream::truncated_normal(std::uint64_t index, double bound) const {
  // Each retry moves to another stream, so that neighbouring indices never share a draw.
  for (std::uint64_t attempt = 0;; ++attempt) {
    const double value = to_normal(philox(key_, stream_ + attempt * redraw, index));
    if (std::abs(value) <= bound) return value;
  }
}

std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ULL;
  }
  return hash;
}

}  // namespace polymoe
