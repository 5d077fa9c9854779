// SPDX-License-Identifier: Apache-2.0
// Products of one row, bound by reading the weights: as many blocks as the device runs at once,
// which take tiles of 16 results, whose warps take pieces of the sum, and whose lanes have weights
// under way to shared memory all the time. bf16 is multiplied on tensor cores, where a few
// instructions take what needs a hundred of the others, so that eight warps keep up with the
// memory. What the row is made of - itself, its norm, an activation of it - each block forms on
// its own, while the first weights come: they are asked for before the kernel that makes the row
// has ended.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device/copies.cuh"
#include "kernels/cuda/device/matrix_fragments.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/early_launch.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {

struct RowStream {
  static constexpr int threads = 256, warps = threads / warp_size;
  /// Results of a tile, and vectors of each one's row in a request: 4 KiB a warp.
  static constexpr int tile_rows = 16, piece_vectors = 16;
  static constexpr int request_vectors = tile_rows * piece_vectors;
  /// Requests of a warp under way, 96 KiB a block: an H200's memory needs as much, and the next
  /// kernel's block finds room beside it.
  static constexpr int requests = 3;
  static constexpr std::size_t ring_vectors = std::size_t{warps} * requests * request_vectors;

  static constexpr std::size_t shared_bytes(std::size_t row_vectors) {
    return (row_vectors + ring_vectors) * sizeof(uint4);
  }
  /// Tiles of a matrix with this many rows.
  __host__ __device__ static constexpr int tiles_of(int results) {
    return (results + tile_rows - 1) / tile_rows;
  }
};

/// Rows of weights, one behind the other, that make the results of a tile.
struct WeightTile {
  const void* first;
  int rows;  // 1 to RowStream::tile_rows
};

/// A lane's part of the sums of a tile: with g = lane / 4 those of its rows g and g + 8.
template <class T>
class TileSums;

/// On tensor cores. The order of a sum's terms is free as long as both factors have the same one,
/// so that the 16 bytes that a lane reads of a row are its fragments of two products. The row that
/// is multiplied stands in all columns of the second factor, and the results in all of the product.
template <>
class TileSums<__nv_bfloat16> {
 public:
  __device__ void add(uint4 upper, uint4 lower, uint4 x) {
    multiply_fragments(sums_[0], {upper.x, lower.x, upper.y, lower.y}, x.x, x.y);
    multiply_fragments(sums_[1], {upper.z, lower.z, upper.w, lower.w}, x.z, x.w);
  }
  /// In every lane.
  __device__ float2 total() const { return {sums_[0][0] + sums_[1][0], sums_[0][2] + sums_[1][2]}; }

 private:
  float sums_[2][4] = {};
};

template <>
class TileSums<float> {
 public:
  __device__ void add(uint4 upper, uint4 lower, uint4 x) {
    using V = Vector<float>;
    float u[V::size], l[V::size], values[V::size];
    V::unpack(upper, u);
    V::unpack(lower, l);
    V::unpack(x, values);
#pragma unroll
    for (int j = 0; j < V::size; ++j) {
      sums_[0] = fmaf(u[j], values[j], sums_[0]);
      sums_[1] = fmaf(l[j], values[j], sums_[1]);
    }
  }
  __device__ float2 total() const {
    float2 sum{sums_[0], sums_[1]};
#pragma unroll
    for (int distance = 2; distance > 0; distance /= 2) {
      sum.x += __shfl_xor_sync(whole_warp, sum.x, distance);
      sum.y += __shfl_xor_sync(whole_warp, sum.y, distance);
    }
    return sum;
  }

 private:
  float sums_[2] = {};
};

/// The weights of a block's tiles, of which a warp takes every eighth piece. `Rows` says where they
/// are:
///   tiles       how many
///   matrices    whose rows make a result's row, one behind the other
///   vectors     of a matrix's row
///   tile(tile, matrix)    WeightTile: where those rows lie
/// and what becomes of the results, see multiply_rows().
template <class Rows>
class WeightStream {
 public:
  /// `ring` is the block's, of RowStream::ring_vectors.
  __device__ WeightStream(const Rows& rows, uint4* ring)
      : rows_(rows),
        lane_(static_cast<int>(threadIdx.x) % warp_size),
        pieces_((rows.vectors + RowStream::piece_vectors - 1) / RowStream::piece_vectors) {
    const int warp = static_cast<int>(threadIdx.x) / warp_size;
    ring_ = ring + warp * RowStream::requests * RowStream::request_vectors;
    first_ = {warp / pieces_, warp % pieces_};
    step_ = {RowStream::warps / pieces_, RowStream::warps % pieces_};
    asked_ = at_ = first_;
    // Neighbours in memory lie with different processors, whose shares then differ by a tile at
    // most. A warp without a piece has nothing to ask for.
    asked_tile_ = first_.matrix < rows.matrices ? static_cast<int>(blockIdx.x) : rows.tiles;
  }

  /// Asks for as much as is under way at once.
  __device__ void begin() {
    for (int i = 0; i < RowStream::requests; ++i) ask();
  }

  /// Adds the products of the warp's pieces of the block's next tile and their parts of `row`.
  template <class T>
  __device__ void multiply_tile(const uint4* row, TileSums<T>& sums) {
    for (at_ = first_; at_.matrix < rows_.matrices; advance(at_)) {
      wait_for_copies<RowStream::requests - 1>();
      __syncwarp();
      multiply_piece(row, sums);
      __syncwarp();
      ask();
      at_slot_ = after(at_slot_);
    }
  }

 private:
  /// A piece of a tile's rows.
  struct Piece {
    int matrix, index;
  };

  /// The vectors of eight neighbouring lanes of multiply_piece() lie in different banks.
  __device__ static int place(int row, int vector) {
    return row * RowStream::piece_vectors + (vector ^ (row % 2 * 4));
  }
  __device__ static int after(int slot) { return slot + 1 == RowStream::requests ? 0 : slot + 1; }
  __device__ int vectors_of(const Piece& piece) const {
    return min(RowStream::piece_vectors, rows_.vectors - piece.index * RowStream::piece_vectors);
  }
  __device__ void advance(Piece& piece) const {
    piece.matrix += step_.matrix;
    piece.index += step_.index;
    if (piece.index < pieces_) return;
    piece.index -= pieces_;
    ++piece.matrix;
  }

  template <class T>
  __device__ void multiply_piece(const uint4* row, TileSums<T>& sums) const {
    constexpr int at_once = 4;
    const int g = lane_ / at_once, t = lane_ % at_once, count = vectors_of(at_);
    const uint4* const weights = ring_ + at_slot_ * RowStream::request_vectors;
    const uint4* const values =
        row + at_.matrix * rows_.vectors + at_.index * RowStream::piece_vectors;
#pragma unroll
    for (int first = 0; first < RowStream::piece_vectors; first += at_once) {
      if (first >= count) break;
      uint4 upper{0, 0, 0, 0}, lower{0, 0, 0, 0}, x{0, 0, 0, 0};
      const int vector = first + t;
      if (vector < count) {
        upper = weights[place(g, vector)];
        lower = weights[place(g + RowStream::tile_rows / 2, vector)];
        x = values[vector];
      }
      sums.add(upper, lower, x);
    }
  }

  __device__ void ask() {
    if (asked_tile_ < rows_.tiles) {
      constexpr int rows_at_once = warp_size / RowStream::piece_vectors;
      const WeightTile tile = rows_.tile(asked_tile_, asked_.matrix);
      const int first_row = lane_ / RowStream::piece_vectors;
      const int vector = lane_ % RowStream::piece_vectors;
      uint4* const to = ring_ + asked_slot_ * RowStream::request_vectors;
      const uint4* const from =
          static_cast<const uint4*>(tile.first) + asked_.index * RowStream::piece_vectors + vector;
      if (vector < vectors_of(asked_)) {
#pragma unroll
        for (int i = 0; i < RowStream::tile_rows; i += rows_at_once) {
          const int r = i + first_row;  // rows that a tile lacks are read as its last
          copy_async(to + place(r, vector), from + min(r, tile.rows - 1) * rows_.vectors);
        }
      }
      advance(asked_);
      if (asked_.matrix >= rows_.matrices) {
        asked_ = first_;
        asked_tile_ += static_cast<int>(gridDim.x);
      }
    }
    commit_copies();
    asked_slot_ = after(asked_slot_);
  }

  const Rows& rows_;
  int lane_, pieces_;
  uint4* ring_;  // the warp's
  Piece first_, step_, asked_, at_;
  int asked_tile_, asked_slot_ = 0, at_slot_ = 0;
};

/// Each result r of the block's tiles: the sum over its row of weights times `row`, in shared
/// memory, added to rows.before(tile, r), is handed to rows.keep(tile, r, sum) by one lane. By all
/// threads, of which each has begun `stream`. A sum's order depends on its row's length alone.
template <class T, class Rows>
__device__ void multiply_rows(const Rows& rows, WeightStream<Rows>& stream, const uint4* row) {
  // Two, so that one barrier a tile is enough.
  __shared__ float partial[2][RowStream::warps][RowStream::tile_rows];
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  int turn = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < rows.tiles;
       tile += static_cast<int>(gridDim.x), ++turn) {
    const bool adds = warp == turn % RowStream::warps && lane < rows.tile(tile, 0).rows;
    const float before = adds ? rows.before(tile, lane) : 0.0F;
    TileSums<T> sums;
    stream.multiply_tile(row, sums);
    const float2 total = sums.total();
    float* const own = partial[turn % 2][warp];
    if (lane % 4 == 0) {
      own[lane / 4] = total.x;
      own[lane / 4 + RowStream::tile_rows / 2] = total.y;
    }
    __syncthreads();
    if (!adds) continue;
    float sum = 0.0F;
#pragma unroll
    for (int w = 0; w < RowStream::warps; ++w) sum += partial[turn % 2][w][lane];
    rows.keep(tile, lane, before + sum);
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

/// Launches a kernel of RowStream::threads for `tiles` tiles, early.
template <auto kernel, class... Arguments>
void launch_row_stream(int tiles, std::size_t row_vectors, Stream& stream,
                       const Arguments&... arguments) {
  const RowStreamDevice& device = RowStreamDevice::of_current();
  prefer_shared_memory<kernel>();
  const std::size_t bytes = RowStream::shared_bytes(row_vectors);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  const auto blocks = static_cast<unsigned>(std::min(device.processors, tiles));
  launch_early<kernel>(dim3(blocks), RowStream::threads, bytes, native(stream), arguments...);
}

}  // namespace polymoe::cuda
