// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace polymoe {

/// Philox 4x32-10: 128 random bits that are a pure function of (key, counter).
/// Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_high,
                                    std::uint64_t counter_low);

/// A stream of random numbers addressed by index: element i does not depend on who asks, or in
/// which order, so any layout of ranks draws the same values.
class RandomStream {
 public:
  /// Streams of different names under one seed are independent.
  RandomStream(std::uint64_t seed, std::string_view name);

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
