// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation_backends.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/activation/activation_cpu_rows.h"
#include "kernels/backend.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/row_tiles.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

// Below this many elements a second thread costs more than it saves.
constexpr std::int64_t serial_elements = 1 << 14;

// Outputs beyond the size of a last-level cache are written past it.
bool exceeds_caches(const Tensor& output) { return output.bytes() > (std::size_t{24} << 20); }

template <class T>
const T* coefficients_of(const Tensor& coefficients, const Activation& activation,
                         std::int64_t group) {
  const std::int64_t count = coefficient_count(activation);
  if (count == 0) return nullptr;
  return coefficients.data<T>() + (coefficients.dim(0) == 1 ? 0 : group * count);
}

// The values of rows from `row` on; null where there are none.
template <class T>
T* rows_from(const Tensor& optional, std::int64_t row, std::int64_t width = 1) {
  return optional.defined() ? optional.data<T>() + row * width : nullptr;
}

template <class T>
void forward(const Activation& activation, const Tensor& x, const Tensor& coefficients,
             const std::vector<std::int64_t>& group_offsets, const Tensor& row_weights,
             const Tensor& y) {
  const RowTiles tiles(group_offsets, RowTiles::unit);
  const std::int64_t width = y.dim(1);
  const bool streaming = exceeds_caches(y);
#pragma omp parallel for schedule(static) if (y.elements() > serial_elements)
  for (std::int64_t i = 0; i < tiles.count(); ++i) {
    const RowTiles::Tile tile = tiles[i];
    cpu::activation_rows_forward(
        activation, cpu::ActivationForwardRows<T>{
                        .rows = tile.end - tile.begin,
                        .width = width,
                        .coefficients = coefficients_of<T>(coefficients, activation, tile.group),
                        .x = x.data<T>() + tile.begin * x.dim(1),
                        .row_scale = rows_from<T>(row_weights, tile.begin),
                        .y = y.data<T>() + tile.begin * width,
                        .y_stride = width,
                        .streaming = streaming});
  }
}

template <class T>
void backward(const Activation& activation, const Tensor& d_y, const Tensor& x,
              const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
              const Tensor& row_weights, const ActivationGradients& gradients,
              const Tensor& partial_sums) {
  const Tensor& d_x = gradients.d_x;
  const RowTiles tiles(group_offsets, RowTiles::unit);
  const std::int64_t width = d_y.dim(1), count = coefficient_count(activation);
  const bool streaming = exceeds_caches(d_x);
#pragma omp parallel for schedule(static) if (d_y.elements() > serial_elements)
  for (std::int64_t i = 0; i < tiles.count(); ++i) {
    const RowTiles::Tile tile = tiles[i];
    double* sums = count == 0 ? nullptr : partial_sums.data<double>() + i * count;
    std::fill(sums, sums + count, 0.0);
    cpu::activation_rows_backward(
        activation, cpu::ActivationBackwardRows<T>{
                        .rows = tile.end - tile.begin,
                        .width = width,
                        .coefficients = coefficients_of<T>(coefficients, activation, tile.group),
                        .x = x.data<T>() + tile.begin * x.dim(1),
                        .row_scale = rows_from<T>(row_weights, tile.begin),
                        .d_y = d_y.data<T>() + tile.begin * width,
                        .d_y_stride = width,
                        .d_x = d_x.data<T>() + tile.begin * x.dim(1),
                        .y = rows_from<T>(gradients.y, tile.begin, width),
                        .y_stride = width,
                        .d_row_scale = rows_from<T>(gradients.d_row_weights, tile.begin),
                        .d_coefficients = sums,
                        .streaming = streaming});
  }
  if (count > 0) cpu::add_partial_sums(tiles, partial_sums, gradients.d_coefficients);
}

template <class T>
void add_sums(const RowTiles& tiles, const Tensor& partial_sums, const Tensor& d_coefficients) {
  const std::int64_t count = partial_sums.dim(1);
  for (std::int64_t j = 0; j < count; ++j) {
    // One rounding to T per set and call, whatever the number of tiles.
    double sum = 0.0;
    std::int64_t group = 0;
    const auto flush = [&] {
      d_coefficients.data<T>()[group * count + j] += static_cast<T>(sum);
      sum = 0.0;
    };
    for (std::int64_t i = 0; i < tiles.count(); ++i) {
      const std::int64_t owner = d_coefficients.dim(0) == 1 ? 0 : tiles[i].group;
      if (owner != group) {
        flush();
        group = owner;
      }
      sum += partial_sums.data<double>()[i * count + j];
    }
    if (tiles.count() > 0) flush();
  }
}

}  // namespace

namespace cpu {

void add_partial_sums(const RowTiles& tiles, const Tensor& partial_sums, Tensor d_coefficients) {
  with_real(d_coefficients.dtype(),
            [&]<class T>(T) { add_sums<T>(tiles, partial_sums, d_coefficients); });
}

}  // namespace cpu

namespace detail {

Shape activation_partial_sums(const Activation& activation, std::int64_t rows,
                              std::int64_t groups) {
  // Enough for either backend: the plan does not know which one it plans for.
  const std::int64_t blocks = std::min(rows, RowTiles::max_partial_blocks) + groups;
  return {std::max(RowTiles::max_count(rows, groups, RowTiles::unit), blocks),
          coefficient_count(activation)};
}

void activation_forward(CpuBackend, const Activation& activation, const Tensor& x,
                        const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                        const Tensor& row_weights, Tensor y, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    forward<T>(activation, x, coefficients, group_offsets, row_weights, y);
  });
}

void activation_backward(CpuBackend, const Activation& activation, const Tensor& d_y,
                         const Tensor& x, const Tensor& coefficients,
                         const std::vector<std::int64_t>& group_offsets, const Tensor& row_weights,
                         const ActivationGradients& gradients, const Tensor& partial_sums,
                         Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    backward<T>(activation, d_y, x, coefficients, group_offsets, row_weights, gradients,
                partial_sums);
  });
}

}  // namespace detail
}  // namespace polymoe
