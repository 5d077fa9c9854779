// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/row_shape.h"
#include "kernels/row_tiles.h"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"
#include "runtime/tensor.h"

namespace polymoe::cuda {

/// How PolyNorm's backward pass runs: how rows come to shared memory, two or three at a time, and
/// the rows of a block, such that the blocks fill the device once.
struct PolyNormBackwardPlan {
  enum class Copies : std::uint8_t {
    none,       // rows are read where they lie
    by_vector,  // each thread copies what it works on
    by_row,     // the hardware copies a row, for a block of its own
  };

  /// `has_bulk_copies`: the kernel by rows was compiled for what runs it.
  PolyNormBackwardPlan(const Tensor& x, int vector_size, bool in_vectors, bool has_bulk_copies)
      : shape(x.dim(1), vector_size, in_vectors) {
    const int device = x.device().index;
    const bool block_a_row = shape.rows_at_once() == 1;
    if (shape.held_vectors > 0) {
      copies = Copies::by_vector;
      int vectors = shape.held_vectors * shape.block_threads;
      if (block_a_row && has_bulk_copies) {
        copies = Copies::by_row;
        vectors = static_cast<int>(x.dim(1)) / vector_size;
        const int warps = divide_up(vectors, 3 * RowShape::warp);
        shape.row_threads = shape.block_threads =
            std::min(warps * RowShape::warp, RowShape::max_threads);
      }
      staged_bytes = std::size_t{4} * static_cast<std::size_t>(vectors) * sizeof(uint4);
    }
    const auto reserve = static_cast<std::size_t>(5 << 10);  // what a block has besides, and more
    const auto most_of_block =
        static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    if (copies == Copies::by_row && staged_bytes / 2 * 3 + reserve <= most_of_block) {
      stages = 3;
      staged_bytes = staged_bytes / 2 * 3;
    }
    if (staged_bytes + reserve > most_of_block) {
      shape = RowShape(x.dim(1), vector_size, false);
      copies = Copies::none;
      staged_bytes = 0;
    }
    const auto available =
        static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device));
    const auto blocks_of_memory = static_cast<int>(available / (staged_bytes + reserve));
    int most = 768 / shape.block_threads;  // by their registers, up to 85 a thread
    if (copies == Copies::by_row) {
      most = std::max(2, static_cast<int>(bytes_in_flight(device) / staged_bytes));
    }
    const int resident = std::max(1, std::min(blocks_of_memory, most));
    rows_per_block = shape.rows_per_block(
        x.dim(0), std::min<std::int64_t>(
                      RowTiles::max_partial_blocks,
                      std::int64_t{attribute(cudaDevAttrMultiProcessorCount, device)} * resident));
  }

  RowShape shape;
  Copies copies = Copies::none;
  int stages = 2;                // rows in shared memory at a time
  std::size_t staged_bytes = 0;  // of shared memory a block
  std::int64_t rows_per_block;

 private:
  /// Bytes of rows that a processor works on or waits for. At 8256 columns two blocks of two rows,
  /// 132 kB, keep an H100's memory busy, 95 % of a copy's rate against 87 % with three; an H200's
  /// memory is 1.4 times as fast, and wants two blocks of three rows.
  static std::size_t bytes_in_flight(int device) {
    // Asked once: the driver takes most of a millisecond to tell a clock.
    static const std::vector<std::size_t> of_device = [] {
      int devices = 0;
      check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
      std::vector<std::size_t> bytes;
      for (int d = 0; d < devices; ++d) {
        const double bytes_per_second = 2e3 * attribute(cudaDevAttrMemoryClockRate, d) *
                                        (attribute(cudaDevAttrGlobalMemoryBusWidth, d) / 8.0);
        bytes.push_back(std::size_t{bytes_per_second > 4e12 ? 208U : 140U} << 10);
      }
      return bytes;
    }();
    return of_device[static_cast<std::size_t>(device)];
  }
  static int attribute(cudaDeviceAttr name, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
    return value;
  }
};

}  // namespace polymoe::cuda
