// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/rotary_backends.h"

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/rotary/rotary.h"
#include "kernels/rotary/rotary_cpu_pairs.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {
namespace {

constexpr std::int64_t rows_per_task = 64;

template <class T>
void rotate_heads(const cpu::RotaryPairs<T>& at, std::int64_t heads, std::int64_t head_dim,
                  std::int64_t first, T* row) {
  const T *cosine = at.cosines(), *sine = at.sines();
  for (std::int64_t head = 0; head < heads; ++head) {
    T* low = row + head * head_dim + first;
    T* high = low + head_dim / 2;
#pragma omp simd
    for (std::int64_t i = 0; i < at.count(); ++i) {
      const T a = low[i], b = high[i];
      low[i] = a * cosine[i] - b * sine[i];
      high[i] = b * cosine[i] + a * sine[i];
    }
  }
}

template <class T>
void rotate(const RotaryPositions& positions, bool inverse, const Tensor& x) {
  const std::int64_t rows = x.dim(0), heads = x.dim(1), head_dim = x.dim(2);
  T* data = x.data<T>();
#pragma omp parallel for schedule(static)
  for (std::int64_t begin = 0; begin < rows; begin += rows_per_task) {
    const std::int64_t end = std::min(begin + rows_per_task, rows);
    for (std::int64_t first = 0; first < head_dim / 2; first += cpu::RotaryPairs<T>::max_pairs) {
      cpu::RotaryPairs<T> at(positions, inverse, head_dim, first, begin);
      for (std::int64_t row = begin; row < end; ++row, at.next_row()) {
        rotate_heads(at, heads, head_dim, first, data + row * heads * head_dim);
      }
    }
  }
}

}  // namespace

void rotary(CpuBackend, const RotaryPositions& positions, bool inverse, Tensor x, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) { rotate<T>(positions, inverse, x); });
}

}  // namespace polymoe::detail
