// SPDX-License-Identifier: Apache-2.0
#include "runtime/random.h"

#include <cmath>
#include <numbers>

namespace polymoe {

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_high,
                                    std::uint64_t counter_low) {
  constexpr std::uint64_t multiplier_0 = 0xD2511F53, multiplier_1 = 0xCD9E8D57;
  constexpr std::uint32_t weyl_0 = 0x9E3779B9, weyl_1 = 0xBB67AE85;
  auto c0 = static_cast<std::uint32_t>(counter_low);
  auto c1 = static_cast<std::uint32_t>(counter_low >> 32);
  auto c2 = static_cast<std::uint32_t>(counter_high);
  auto c3 = static_cast<std::uint32_t>(counter_high >> 32);
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = multiplier_0 * c0, p1 = multiplier_1 * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += weyl_0;
    k1 += weyl_1;
  }
  return {c0, c1, c2, c3};
}

namespace {

double to_uniform(std::uint32_t high, std::uint32_t low) {
  const std::uint64_t bits = (std::uint64_t{high} << 32) | low;
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

double to_normal(const std::array<std::uint32_t, 4>& bits) {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - to_uniform(bits[0], bits[1])));
  return radius * std::cos(2.0 * std::numbers::pi * to_uniform(bits[2], bits[3]));
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
  return to_uniform(value[0], value[1]);
}

double RandomStream::normal(std::uint64_t index) const {
  return to_normal(philox(key_, stream_, index));
}

double RandomStream::truncated_normal(std::uint64_t index, double bound) const {
  // Each retry moves to another stream, so that neighbouring indices never share a draw.
  for (std::uint64_t attempt = 0;; ++attempt) {
    const double value = to_normal(philox(key_, stream_ + attempt * 0x9E3779B97F4A7C15ULL, index));
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
