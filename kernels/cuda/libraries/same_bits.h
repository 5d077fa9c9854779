// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace polymoe::cuda {

struct BitComparison {
  bool equal;
  bool all_zero;
};

/// Compares two device arrays of an even number of bytes. Blocks until the answer is there.
BitComparison compare_bits(const void* a, const void* b, std::size_t bytes, cudaStream_t stream);

}  // namespace polymoe::cuda
