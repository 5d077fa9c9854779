// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polymoe::cuda {

constexpr int warp_size = 32;
constexpr unsigned whole_warp = 0xffffffffU;

/// The warp's sum in every lane, by one fixed tree.
template <class T>
__device__ T sum_over_warp(T value) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(whole_warp, value, offset);
  }
  return value;
}

template <class T>
__device__ T max_over_warp(T value) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(whole_warp, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

/// The block's sum in every thread, by one fixed tree. `scratch` holds a T per warp.
template <class T>
__device__ T sum_over_block(T value, T* scratch) {
  value = sum_over_warp(value);
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int warps = static_cast<int>(blockDim.x) / warp_size;
  if (threadIdx.x % warp_size == 0) scratch[warp] = value;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < warps; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}

/// Every lane receives the sums over the warp, the same bits in all of them.
template <int n, class T>
__device__ void sum_over_warp(T (&values)[n]) {
#pragma unroll
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < n; ++i) values[i] += __shfl_xor_sync(whole_warp, values[i], offset);
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
      values[i] = kept + __shfl_xor_sync(whole_warp, sent, distance);
    }
  } else if constexpr (distance > 0) {
    values[0] += __shfl_xor_sync(whole_warp, values[0], distance);
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
      sum += __shfl_xor_sync(whole_warp, sum, distance);
    }
#pragma unroll
    for (int i = 0; i < n; ++i) values[i] = __shfl_sync(whole_warp, sum, i * lanes);
    turn_ ^= 1;
  }

 private:
  Storage& storage_;
  int turn_ = 0;
};

}  // namespace polymoe::cuda
