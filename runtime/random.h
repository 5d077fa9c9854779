// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace polymoe {

/// Philox 4x32-10: 128 random bits that are a pure function of (key, counter).
/// Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
constexpr std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_high,
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

/// Uniform in [0, 1) from 64 random bits: the upper 53 of them.
constexpr double uniform_of(std::uint32_t high, std::uint32_t low) {
  const std::uint64_t bits = (std::uint64_t{high} << 32) | low;
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

/// A stream of random numbers addressed by index: element i does not depend on who asks, or in
/// which order, so any layout of ranks draws the same values.
class RandomStream {
 public:
  /// Streams of different names under one seed are independent.
  RandomStream(std::uint64_t seed, std::string_view name);

  /// What the stream's philox() calls have in common: key, and the upper half of the counter.
  std::uint64_t key() const { return key_; }
  std::uint64_t counter_high() const { return stream_; }
  /// Added to counter_high() by each redraw of truncated_normal().
  static constexpr std::uint64_t redraw = 0x9E3779B97F4A7C15ULL;

  /// Uniform 64 bits.
  std::uint64_t bits(std::uint64_t index) const;
  /// Uniform in [0, 1), 53 bits.
  double uniform(std::uint64_t index) const;
  /// Standard normal (Box-Muller).
  double normal(std::uint64_t index) const;
  /// Standard normal conditioned on |z| <= bound, by rejection; bound > 0.
  double truncated_normal(std::uint64_t index, double bound) const;

 private:
  std::uint64_t key_;
  std::uint64_t stream_;
};

/// FNV-1a, 64 bits: a name's place in the random stream space. Not for integrity.
std::uint64_t hash_of(std::string_view text);

}  // namespace polymoe
