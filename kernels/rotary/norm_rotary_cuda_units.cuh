// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels/cuda/device/vectors.cuh"
#include "kernels/rotary/rotary_cuda_angles.cuh"

namespace polymoe::cuda {

constexpr int max_threads = 512, any_threads = 256;
constexpr std::size_t max_table = 40U * 1024;  // bytes; a block has 48 KiB without asking for more

/// What a thread holds of a row is units: 16 bytes of the low half of a head, and the 16 bytes of
/// the high half that they are rotated with.
template <class T>
struct Unit {
  __device__ Unit(int index, int pairs) {
    const int per_head = pairs / Vector<T>::size;
    low = index / per_head * 2 * per_head + index % per_head;
    high = low + per_head;
    pair = index % per_head * Vector<T>::size;
  }
  int low, high;  // vectors of the row
  int pair;       // first of the head
};

/// table [rows, cosine and sine, pairs]: of rows from first_row on, by all threads of the block.
__device__ inline void fill_rotations(const RotaryAngles& angles, std::int64_t first_row, int rows,
                                      int pairs, float* table) {
  for (int i = threadIdx.x; i < rows * pairs; i += blockDim.x) {
    const int row = i / pairs, pair = i % pairs;
    const float2 rotation = angles(first_row + row, pair);
    table[2 * row * pairs + pair] = rotation.x;
    table[(2 * row + 1) * pairs + pair] = rotation.y;
  }
}

/// (low, high) rotated; cosines are aligned to 16 bytes, the sines follow `pairs` later.
template <int n>
__device__ void rotate(const float* cosines, int pairs, float (&low)[n], float (&high)[n]) {
#pragma unroll
  for (int i = 0; i < n; i += 4) {
    float cosine[4], sine[4];
    Vector<float>::unpack(*reinterpret_cast<const uint4*>(cosines + i), cosine);
    Vector<float>::unpack(*reinterpret_cast<const uint4*>(cosines + pairs + i), sine);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float l = low[i + j], h = high[i + j];
      low[i + j] = l * cosine[j] - h * sine[j];
      high[i + j] = h * cosine[j] + l * sine[j];
    }
  }
}

/// Bytes of the table of `rows` rows.
inline std::size_t table_bytes(int rows, int pairs) {
  return static_cast<std::size_t>(rows) * 2 * static_cast<std::size_t>(pairs) * sizeof(float);
}

/// Whether rows can be taken in units.
template <class T>
bool in_units(int width, int pairs, std::initializer_list<const void*> pointers) {
  return pairs % Vector<T>::size == 0 && in_vectors<T>(width, pointers);
}

}  // namespace polymoe::cuda
