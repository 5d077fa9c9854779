// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe::cuda {

// The formulas of split_float and join_float (runtime/float16.h), on bits.

__device__ inline std::uint32_t high_of_float(std::uint32_t bits) {
  const std::uint32_t upper = bits >> 16;
  if ((bits & 0x7fffffffU) <= 0x7f800000U) return (bits + 0x8000U) >> 16;
  return (upper & 0x7fU) == 0 ? upper | 0x40U : upper;
}

__device__ inline std::uint32_t joined_bits(std::uint32_t high, std::uint32_t low) {
  const bool nan = (high & 0x7fffU) > 0x7f80U;
  return ((high - (nan ? 0U : low >> 15)) << 16) | low;
}

/// Values of f32 as bf16 patterns and the 16 bits that these lack. On request without the latter,
/// which are null then, for stores alone.
struct SplitValues {
  std::uint16_t* high;
  std::uint16_t* low;

  __device__ float load(std::int64_t i) const {
    return __uint_as_float(joined_bits(high[i], low[i]));
  }
  __device__ void store(std::int64_t i, float value) const {
    const std::uint32_t bits = __float_as_uint(value);
    high[i] = static_cast<std::uint16_t>(high_of_float(bits));
    if (low != nullptr) low[i] = static_cast<std::uint16_t>(bits);
  }

  /// Four from i on, which is a multiple of four.
  __device__ void load_four(std::int64_t i, float (&values)[4]) const {
    const uint2 upper = *reinterpret_cast<const uint2*>(high + i);
    const uint2 lower = *reinterpret_cast<const uint2*>(low + i);
    values[0] = __uint_as_float(joined_bits(upper.x & 0xffffU, lower.x & 0xffffU));
    values[1] = __uint_as_float(joined_bits(upper.x >> 16, lower.x >> 16));
    values[2] = __uint_as_float(joined_bits(upper.y & 0xffffU, lower.y & 0xffffU));
    values[3] = __uint_as_float(joined_bits(upper.y >> 16, lower.y >> 16));
  }
  __device__ void store_four(std::int64_t i, const float (&values)[4]) const {
    std::uint32_t bits[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) bits[j] = __float_as_uint(values[j]);
    const auto pair = [](std::uint32_t first, std::uint32_t second) {
      return (first & 0xffffU) | (second << 16);
    };
    *reinterpret_cast<uint2*>(high + i) = {pair(high_of_float(bits[0]), high_of_float(bits[1])),
                                           pair(high_of_float(bits[2]), high_of_float(bits[3]))};
    if (low == nullptr) return;
    *reinterpret_cast<uint2*>(low + i) = {pair(bits[0], bits[1]), pair(bits[2], bits[3])};
  }
};

}  // namespace polymoe::cuda
