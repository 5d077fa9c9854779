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

/// 16 bytes from global to shared memory, without waiting; see commit_copies() and
/// wait_for_copies(). Only the copying thread may rely on the wait.
__device__ inline void copy_async(uint4* shared, const uint4* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global)
               : "memory");
}
/// Closes a group of the copies so far.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until at most `pending` of the latest groups are under way.
template <int pending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}
/// A load that is made where it is written, so that its registers are free before and after.
__device__ inline uint4 load_shared(const uint4* shared) {
  uint4 bits;
  asm volatile("ld.volatile.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(shared)))
               : "memory");
  return bits;
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

constexpr int warp_size = 32;

/// Every lane receives the sums over the warp, the same bits in all of them.
template <int n, class T>
__device__ void sum_over_warp(T (&values)[n]) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < n; ++i) values[i] += __shfl_xor_sync(~0U, values[i], offset);
  }
}

/// The sums over the warp of n values, n a power of two up to 32: lane l receives that of value
/// l / (32 / n). At each step half of the values left go to the lanes that keep them:
/// n - 1 + log2(32 / n) exchanges instead of 5 n. Leaves other sums in `values`.
template <int n, int distance = warp_size / 2, class T, int size>
__device__ T spread_sum_over_warp(T (&values)[size]) {
  if constexpr (distance == 0) return values[0];
  if constexpr (n > 1) {
    const bool upper = (threadIdx.x & distance) != 0;
#pragma unroll
    for (int i = 0; i < n / 2; ++i) {
      const T kept = upper ? values[i + n / 2] : values[i];
      const T sent = upper ? values[i] : values[i + n / 2];
      values[i] = kept + __shfl_xor_sync(~0U, sent, distance);
    }
  } else if constexpr (distance > 0) {
    values[0] += __shfl_xor_sync(~0U, values[0], distance);
  }
  if constexpr (distance > 0)
    return spread_sum_over_warp<(n > 1 ? n / 2 : 1), distance / 2>(values);
}

/// Sums over a block of at most 16 warps, called by all of its threads, any number of times; every
/// thread receives the same bits. One barrier each: two buffers take turns.
template <int n, class T = float>
class BlockSum {
  static constexpr int room = n <= 1 ? 1 : n <= 2 ? 2 : n <= 4 ? 4 : n <= 8 ? 8 : 16;
  static constexpr int lanes = warp_size / room;  // of a value
  static_assert(n <= 16);

 public:
  static constexpr int max_warps = 16;
  struct Storage {
    T partial[2][max_warps][room];
  };
  __device__ explicit BlockSum(Storage& storage) : storage_(storage) {}

  __device__ void operator()(T (&values)[n]) {
    T padded[room];
#pragma unroll
    for (int i = 0; i < room; ++i) padded[i] = i < n ? values[i] : T{0};
    T sum = spread_sum_over_warp<room>(padded);
    const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
    const int warps = blockDim.x / warp_size;
    if (lane % lanes == 0) storage_.partial[turn_][warp][lane / lanes] = sum;
    __syncthreads();
    sum = T{0};
#pragma unroll
    for (int first = 0; first < max_warps; first += lanes) {
      const int source = first + lane % lanes;
      if (source < warps) sum += storage_.partial[turn_][source][lane / lanes];
    }
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(~0U, sum, distance);
    }
#pragma unroll
    for (int i = 0; i < n; ++i) values[i] = __shfl_sync(~0U, sum, i * lanes);
    turn_ ^= 1;
  }

 private:
  Storage& storage_;
  int turn_ = 0;
};

}  // namespace polymoe::cuda
