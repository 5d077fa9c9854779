// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

namespace polymoe {

/// The value of a bfloat16 pattern: the upper half of a float's. Exact.
inline float float_of_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// The nearest bfloat16, ties to even; beyond the largest finite one infinity; NaN stays NaN.
inline std::uint16_t bf16_of_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Rounding could carry a NaN's pattern into infinity's; the quiet bit keeps it one.
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// An f32 value as a bfloat16 pattern and the lower 16 bits of its own pattern.
struct SplitFloat {
  std::uint16_t high, low;
};

/// high = the nearest bfloat16, ties away from zero, so that the lower bits alone say which way it
/// was rounded: join_float gives the value back to the bit. A NaN becomes a quiet one, and keeps
/// its payload.
inline SplitFloat split_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto upper = static_cast<std::uint16_t>(bits >> 16);
  const auto low = static_cast<std::uint16_t>(bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return {static_cast<std::uint16_t>((upper & 0x7fu) == 0 ? upper | 0x40u : upper), low};
  return {static_cast<std::uint16_t>((bits + 0x8000u) >> 16), low};
}

/// The value that split_float took.
inline float join_float(SplitFloat parts) {
  const bool nan = (parts.high & 0x7fffu) > 0x7f80u;
  const std::uint32_t upper = parts.high - (nan ? 0u : parts.low >> 15);
  return std::bit_cast<float>((upper << 16) | parts.low);
}

/// The value of an IEEE 754 binary16 pattern. Exact.
inline float float_of_f16(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu, fraction = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
  }
  const std::uint32_t widened = exponent == 31 ? 0xffu : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (widened << 23) | (fraction << 13));
}

}  // namespace polymoe
