// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/row_shape.h"
#include "kernels/row_tiles.h"
#include "runtime/cuda/check.h"
#include "runtime/tensor.h"

namespace polymoe::cuda {

/// Bytes of shared memory of a block of PolyNorm's backward pass: two rows' vectors of x and d_y.
inline std::size_t poly_norm_staged_bytes(const RowShape& shape) {
  return std::size_t{4} * static_cast<std::size_t>(shape.held_vectors * shape.block_threads) *
         sizeof(uint4);
}

/// The backward pass's shape, and the rows of a block: the blocks fill the device once.
struct PolyNormBackwardPlan {
  PolyNormBackwardPlan(const Tensor& x, int vector_size, bool in_vectors)
      : shape(x.dim(1), vector_size, in_vectors) {
    const int device = x.device().index;
    const int processors = attribute(cudaDevAttrMultiProcessorCount, device);
    const auto reserve = static_cast<std::size_t>(5 << 10);  // what a block has besides, and more
    if (poly_norm_staged_bytes(shape) + reserve >
        static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device))) {
      shape = RowShape(x.dim(1), vector_size, false);
    }
    const auto available =
        static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device));
    const auto blocks_of_memory =
        static_cast<int>(available / (poly_norm_staged_bytes(shape) + reserve));
    const int blocks_of_threads = 1024 / shape.block_threads;
    const int resident = std::max(1, std::min(blocks_of_memory, blocks_of_threads));
    rows_per_block = shape.rows_per_block(
        x.dim(0),
        std::min<std::int64_t>(RowTiles::max_partial_blocks, std::int64_t{processors} * resident));
  }

  RowShape shape;
  std::int64_t rows_per_block;

 private:
  static int attribute(cudaDeviceAttr name, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
    return value;
  }
};

}  // namespace polymoe::cuda
