// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <initializer_list>

namespace polymoe::cuda {

/// 16 bytes of a row, the widest access of a thread, and their values in f32.
template <class T>
struct Vector;

template <>
struct Vector<float> {
  static constexpr int size = 4;
  __device__ static void unpack(uint4 bits, float (&values)[size]) {
    values[0] = __uint_as_float(bits.x);
    values[1] = __uint_as_float(bits.y);
    values[2] = __uint_as_float(bits.z);
    values[3] = __uint_as_float(bits.w);
  }
  __device__ static uint4 pack(const float (&values)[size]) {
    return {__float_as_uint(values[0]), __float_as_uint(values[1]), __float_as_uint(values[2]),
            __float_as_uint(values[3])};
  }
};

template <>
struct Vector<__nv_bfloat16> {
  static constexpr int size = 8;
  __device__ static void unpack(uint4 bits, float (&values)[size]) {
    const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[2 * i] = __uint_as_float(words[i] << 16);
      values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
    }
  }
  __device__ static uint4 pack(const float (&values)[size]) {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
      words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
    }
    return {words[0], words[1], words[2], words[3]};
  }
};

/// Flips no bits, as `zero` is 0, but the compiler does not know: what was unpacked before is
/// unpacked again after it, instead of being kept in several times the registers.
__device__ inline void unpack_again(uint4& bits, std::uint32_t zero) {
  bits.x ^= zero;
  bits.y ^= zero;
  bits.z ^= zero;
  bits.w ^= zero;
}

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
template <class T>
__device__ T from_float(float value) {
  if constexpr (sizeof(T) == 4)
    return value;
  else
    return __float2bfloat16_rn(value);
}

/// Whether rows of `width` elements can be taken in vectors.
template <class T>
bool in_vectors(std::int64_t width, std::initializer_list<const void*> pointers) {
  if (width % Vector<T>::size != 0) return false;
  for (const void* pointer : pointers) {
    if (reinterpret_cast<std::uintptr_t>(pointer) % sizeof(uint4) != 0) return false;
  }
  return true;
}

/// Four elements at a time, for operations over tensors of different dtypes. Aligned to the four.
template <class T>
__device__ void load_four(const T* from, float (&values)[4]) {
  if constexpr (sizeof(T) == 4) {
    Vector<float>::unpack(*reinterpret_cast<const uint4*>(from), values);
  } else {
    const uint2 bits = *reinterpret_cast<const uint2*>(from);
    values[0] = __uint_as_float(bits.x << 16);
    values[1] = __uint_as_float(bits.x & 0xffff0000U);
    values[2] = __uint_as_float(bits.y << 16);
    values[3] = __uint_as_float(bits.y & 0xffff0000U);
  }
}
template <class T>
__device__ void store_four(T* to, const float (&values)[4]) {
  if constexpr (sizeof(T) == 4) {
    *reinterpret_cast<uint4*>(to) = Vector<float>::pack(values);
  } else {
    const __nv_bfloat162 low = __floats2bfloat162_rn(values[0], values[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(values[2], values[3]);
    *reinterpret_cast<uint2*>(to) = {*reinterpret_cast<const std::uint32_t*>(&low),
                                     *reinterpret_cast<const std::uint32_t*>(&high)};
  }
}

/// Neighbouring elements that one access moves.
template <class T, int count>
struct alignas(sizeof(T) * count) Pack {
  T values[count];
};

/// Whole numbers in the order of floats; 1 for NaN, below every number; never 0.
__device__ inline unsigned ordered_bits(float value) {
  if (value != value) return 1u;
  const unsigned bits = __float_as_uint(value == 0.0f ? 0.0f : value);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace polymoe::cuda
