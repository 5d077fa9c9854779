// SPDX-License-Identifier: Apache-2.0
// Rows that products of one row read, as each block forms them in its shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/matmul/row_products_cuda_stream.cuh"
#include "kernels/rms_norm/rms_norm_cuda_row.cuh"

namespace polymoe::cuda {

// A source has
//   shared_vectors()  what it takes of shared memory, the row first
//   prepare(shared)   before what the row is made of is there
//   fetch(shared)     once it is there
//   form<later>(shared)  makes the row, after `later` groups of copies that were begun since fetch();
//                        by all threads, which may read it afterwards

/// Copies a row to shared memory without waiting, in a group of its own.
__device__ inline void fetch_row(uint4* shared, const uint4* row, int vectors) {
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += RowStream::threads)
    copy_async(shared + i, row + i);
  commit_copies();
}

/// The row as it lies.
template <class T>
struct PlainRow {
  const T* x;
  int vectors;

  __host__ __device__ int shared_vectors() const { return vectors; }
  __device__ void prepare(uint4*) const {}
  __device__ void fetch(uint4* row) const {
    fetch_row(row, reinterpret_cast<const uint4*>(x), vectors);
  }
  template <int later>
  __device__ void form(uint4*) const {
    wait_for_copies<later>();
    __syncthreads();
  }
};

/// x / rms(x) * scale.
template <class T>
struct NormedRowSource {
  const T* x;
  const T* scale;
  float epsilon;
  int vectors;

  __host__ __device__ int shared_vectors() const { return 2 * vectors; }
  __device__ void prepare(uint4* shared) const {
    fetch_row(shared + vectors, reinterpret_cast<const uint4*>(scale), vectors);
  }
  __device__ void fetch(uint4* row) const {
    fetch_row(row, reinterpret_cast<const uint4*>(x), vectors);
  }
  template <int later>
  __device__ void form(uint4* row) const {
    using V = Vector<T>;
    __shared__ BlockSum<1>::Storage storage;
    wait_for_copies<later>();
    // A thread reads what it has copied itself.
    float squares[1] = {0.0F};
    for (int i = static_cast<int>(threadIdx.x); i < vectors; i += RowStream::threads) {
      float values[V::size];
      V::unpack(row[i], values);
#pragma unroll
      for (const float value : values) squares[0] = fmaf(value, value, squares[0]);
    }
    BlockSum<1>{storage}(squares);
    const float inv_rms = inverse_rms(squares[0], vectors * V::size, epsilon);
    for (int i = static_cast<int>(threadIdx.x); i < vectors; i += RowStream::threads) {
      float values[V::size], scales[V::size];
      V::unpack(row[i], values);
      V::unpack(row[vectors + i], scales);
#pragma unroll
      for (int j = 0; j < V::size; ++j) values[j] = normed(values[j], inv_rms, scales[j]);
      row[i] = V::pack(values);
    }
    __syncthreads();
  }
};

/// What a launch needs to know of a row and its norm, if it has one.
template <class T>
struct RowArguments {
  const T* x;
  const T* scale;  // or null
  float epsilon;
  int width;

  /// Whether it is made of vectors, and finds room beside the weights and `more` vectors.
  bool streams(int more = 0) const {
    const auto vectors = static_cast<std::size_t>(width / Vector<T>::size);
    return in_vectors<T>(width, {x, scale}) && vectors > 0 &&
           RowStreamDevice::of_current().has_room((scale == nullptr ? vectors : 2 * vectors) +
                                                  static_cast<std::size_t>(more));
  }
  /// Calls operation(source).
  template <class Operation>
  void with_source(const Operation& operation) const {
    const int vectors = width / Vector<T>::size;
    if (scale == nullptr)
      operation(PlainRow<T>{x, vectors});
    else
      operation(NormedRowSource<T>{x, scale, epsilon, vectors});
  }
};

}  // namespace polymoe::cuda
