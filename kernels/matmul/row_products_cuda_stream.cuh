// SPDX-License-Identifier: Apache-2.0
// Products of one row, bound by reading the weights: as many blocks as the device runs at once,
// whose warps take whole results, and whose lanes have weights under way to shared memory all the
// time. What the row is made of - itself, its norm, an activation of it - each block forms on its
// own, while the first weights come: they are asked for before the kernel that makes the row has
// ended.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device/copies.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/early_launch.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {

struct RowStream {
  static constexpr int threads = 256, warps = threads / warp_size;
  /// Vectors of a lane in a request: 4 KiB a warp.
  static constexpr int lane_vectors = 8, request_vectors = lane_vectors * warp_size;
  /// Requests of a warp under way, 96 KiB a block: an H200's memory needs as much, and the next
  /// kernel's block finds room beside it.
  static constexpr int requests = 3;
  static constexpr std::size_t ring_vectors = std::size_t{warps} * requests * request_vectors;

  static constexpr std::size_t shared_bytes(std::size_t row_vectors) {
    return (row_vectors + ring_vectors) * sizeof(uint4);
  }
};

/// A piece of the row of weights that makes a result: of the matrix `matrix`, from a vector on.
struct WeightPlace {
  int result, matrix, vector;
};

/// The weights of a warp's results, piece by piece. `Rows` says where they are:
///   results     how many
///   matrices    whose rows make a result's row, one behind the other
///   vectors     of a matrix's row
///   row(result, matrix)   const uint4*: where that row lies
/// and what becomes of the results, see multiply_rows().
template <class Rows>
class WeightStream {
 public:
  /// `ring` is the block's, of RowStream::ring_vectors.
  __device__ WeightStream(const Rows& rows, uint4* ring)
      : rows_(rows),
        lane_(static_cast<int>(threadIdx.x) % warp_size),
        piece_(pieces_of(rows.vectors)) {
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    ring_ = ring + warp * RowStream::requests * RowStream::request_vectors + lane_;
    // Neighbours in memory lie with different processors, whose shares then differ by a row at
    // most.
    asked_ = at_ = {warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x), 0, 0};
  }

  /// Asks for as much as is under way at once.
  __device__ void begin() {
    for (int i = 0; i < RowStream::requests; ++i) ask();
  }
  __device__ bool ended() const { return at_.result >= rows_.results; }
  __device__ const WeightPlace& at() const { return at_; }

  /// Adds the products of the piece and its part of `row` to `sums`; whether it was a result's
  /// last.
  template <class T, int n>
  __device__ bool multiply(const uint4* row, float (&sums)[n]) {
    using V = Vector<T>;
    wait_for_copies<RowStream::requests - 1>();
    const uint4* weights = ring_ + at_slot_ * RowStream::request_vectors;
    const uint4* values = row + at_.matrix * rows_.vectors + at_.vector + lane_;
    const int count = left(at_);
#pragma unroll
    for (int i = 0; i < RowStream::lane_vectors; ++i) {
      if (i * warp_size >= count) break;
      float w[V::size], x[V::size];
      V::unpack(weights[i * warp_size], w);
      V::unpack(values[i * warp_size], x);
#pragma unroll
      for (int j = 0; j < V::size; ++j) sums[j % n] = fmaf(w[j], x[j], sums[j % n]);
    }
    at_slot_ = after(at_slot_);
    ask();
    return advance(at_);
  }

 private:
  /// Vectors of a piece: a row's pieces are equal, of whole warps, but for the last.
  __device__ static int pieces_of(int vectors) {
    const int pieces = (vectors + RowStream::request_vectors - 1) / RowStream::request_vectors;
    const int each = pieces == 0 ? 0 : (vectors + pieces - 1) / pieces;
    return (each + warp_size - 1) / warp_size * warp_size;
  }
  __device__ static int after(int slot) { return slot + 1 == RowStream::requests ? 0 : slot + 1; }
  /// Vectors of the piece from this lane's first on.
  __device__ int left(const WeightPlace& place) const {
    return min(piece_, rows_.vectors - place.vector) - lane_;
  }
  __device__ void ask() {
    if (asked_.result < rows_.results) {
      const uint4* from = rows_.row(asked_.result, asked_.matrix) + asked_.vector + lane_;
      uint4* to = ring_ + asked_slot_ * RowStream::request_vectors;
      const int count = left(asked_);
#pragma unroll
      for (int i = 0; i < RowStream::lane_vectors; ++i)
        if (i * warp_size < count) copy_async(to + i * warp_size, from + i * warp_size);
      advance(asked_);
    }
    commit_copies();
    asked_slot_ = after(asked_slot_);
  }
  __device__ bool advance(WeightPlace& place) const {
    place.vector += piece_;
    if (place.vector < rows_.vectors) return false;
    place.vector = 0;
    if (++place.matrix < rows_.matrices) return false;
    place.matrix = 0;
    place.result += RowStream::warps * static_cast<int>(gridDim.x);
    return true;
  }

  const Rows& rows_;
  int lane_, piece_;
  uint4* ring_;  // the lane's first place
  WeightPlace asked_, at_;
  int asked_slot_ = 0, at_slot_ = 0;
};

/// Each of the block's results: the sum over its row of weights times `row`, in shared memory,
/// added to rows.before(result), is handed to rows.keep(result, sum) by one lane. By all threads,
/// of which each has begun `stream`.
template <class T, class Rows>
__device__ void multiply_rows(const Rows& rows, WeightStream<Rows>& stream, const uint4* row) {
  while (!stream.ended()) {
    const int result = stream.at().result;
    const float before = rows.before(result);
    float sums[4] = {};
    while (!stream.template multiply<T>(row, sums)) {
    }
    const float sum = sum_over_warp((sums[0] + sums[1]) + (sums[2] + sums[3]));
    if (threadIdx.x % warp_size == 0) rows.keep(result, before + sum);
  }
}

/// The device's processors, and the shared memory that a block may have.
struct RowStreamDevice {
  int processors = 0;
  std::size_t shared_bytes = 0;

  static const RowStreamDevice& of_current() {
    static const RowStreamDevice device = [] {
      int index = 0, processors = 0, bytes = 0;
      check(cudaGetDevice(&index), "cudaGetDevice");
      check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, index),
            "cudaDeviceGetAttribute");
      check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
            "cudaDeviceGetAttribute");
      return RowStreamDevice{processors, static_cast<std::size_t>(bytes)};
    }();
    return device;
  }
  /// Whether a row and what it is formed with find room beside the weights.
  bool has_room(std::size_t row_vectors) const {
    constexpr std::size_t fixed = 8 << 10;  // for what the kernels have of their own
    return RowStream::shared_bytes(row_vectors) + fixed <= shared_bytes;
  }
};

/// Launches a kernel of RowStream::threads for `results` results, early.
template <auto kernel, class... Arguments>
void launch_row_stream(std::int64_t results, std::size_t row_vectors, Stream& stream,
                       const Arguments&... arguments) {
  const RowStreamDevice& device = RowStreamDevice::of_current();
  prefer_shared_memory<kernel>();
  const std::size_t bytes = RowStream::shared_bytes(row_vectors);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  const std::int64_t blocks =
      std::min<std::int64_t>(device.processors, divide_up<std::int64_t>(results, RowStream::warps));
  launch_early<kernel>(dim3(static_cast<unsigned>(blocks)), RowStream::threads, bytes,
                       native(stream), arguments...);
}

}  // namespace polymoe::cuda
