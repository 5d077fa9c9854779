// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding/embedding_backends.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/cpu/real_dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {
namespace {

// Columns that one task of the backward pass owns: whole cache lines, and few enough that the tasks
// occupy many threads.
constexpr std::int64_t slab_columns = 128;

void check_tokens(const char* operation, const Tensor& tokens, std::int64_t vocab) {
  const std::int32_t* ids = tokens.data<std::int32_t>();
  for (std::int64_t row = 0; row < tokens.elements(); ++row) {
    if (ids[row] < 0 || ids[row] >= vocab) {
      throw InvalidArgument(std::string(operation) + ": token id " + std::to_string(ids[row]) +
                            " at position " + std::to_string(row) + " is not in [0, " +
                            std::to_string(vocab) + ")");
    }
  }
}

}  // namespace

void embedding_forward(CpuBackend, const Tensor& tokens, const Tensor& table, Tensor y, Stream&) {
  check_tokens("embedding_forward", tokens, table.dim(0));
  const std::int32_t* ids = tokens.data<std::int32_t>();
  const std::int64_t rows = y.dim(0), width = table.dim(1);
  cpu::with_real(table.dtype(), [&]<class T>(T) {
    const T* source = table.data<T>();
    T* target = y.data<T>();
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
      std::copy_n(source + ids[row] * width, width, target + row * width);
    }
  });
}

void embedding_backward(CpuBackend, const Tensor& tokens, const Tensor& d_y, Tensor d_table,
                        const EmbeddingScratch&, Stream&) {
  check_tokens("embedding_backward", tokens, d_table.dim(0));
  const std::int32_t* ids = tokens.data<std::int32_t>();
  const std::int64_t rows = d_y.dim(0), width = d_table.dim(1);
  cpu::with_real(d_table.dtype(), [&]<class T>(T) {
    const T* source = d_y.data<T>();
    T* target = d_table.data<T>();
#pragma omp parallel for schedule(static)
    for (std::int64_t first = 0; first < width; first += slab_columns) {
      const std::int64_t columns = std::min(slab_columns, width - first);
      for (std::int64_t row = 0; row < rows; ++row) {
        const T* from = source + row * width + first;
        T* to = target + ids[row] * width + first;
#pragma omp simd
        for (std::int64_t i = 0; i < columns; ++i) to[i] += from[i];
      }
    }
  });
}

}  // namespace polymoe::detail
