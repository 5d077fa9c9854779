// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace polymoe {

enum class DType : std::uint8_t { f32, f64, bf16, f16, i32, i64, u16, u32, u8 };

/// Size of one element in bytes.
std::size_t size_of(DType dtype);
/// "f32", "bf16", ...
const char* name_of(DType dtype);

/// The DType of a C++ element type.
template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<T, double>)
    return DType::f64;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return DType::i32;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return DType::i64;
  else if constexpr (std::is_same_v<T, std::uint16_t>)
    return DType::u16;
  else if constexpr (std::is_same_v<T, std::uint32_t>)
    return DType::u32;
  else {
    static_assert(std::is_same_v<T, std::uint8_t>, "no DType for this element type");
    return DType::u8;
  }
}

}  // namespace polymoe
