// SPDX-License-Identifier: Apache-2.0
#include "kernels/feed_forward/feed_forward_backends.h"

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/activation/activation.h"
#include "kernels/activation/activation_cpu_rows.h"
#include "kernels/backend.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/row_tiles.h"
#include "runtime/dtype.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"

namespace polymoe {
namespace {

// Experts, and tiles of their rows, run side by side, each product on one thread: with the few
// hundred rows of an expert that is 1.3 times as fast as one product at a time on all threads.
// A tile repacks its expert's weights: 64 rows reach 65 % of the rate of a large product, 128 rows
// 80 %, 256 rows 92 %, 512 rows 97 %. More rows only delay the last thread.
constexpr std::int64_t most_tile_rows = 512;

// Least rows of an expert's weight whose gradients one thread takes.
constexpr std::int64_t least_slab_rows = 256;

// As few tiles as possible, in a multiple of the threads.
std::int64_t tile_rows_for(std::int64_t rows) {
  const std::int64_t threads = omp_get_max_threads();
  const std::int64_t rounds = std::max<std::int64_t>(divide_up(rows, threads * most_tile_rows), 1);
  const std::int64_t tile_rows = divide_up(divide_up(rows, rounds * threads), RowTiles::unit);
  return std::max<std::int64_t>(tile_rows, 1) * RowTiles::unit;
}

template <class T>
struct Expert {
  const T* up;            // [pre_width, hidden]
  const T* down;          // [hidden, ffn]
  const T* coefficients;  // null where there are none
};

struct Sizes {
  std::int64_t hidden, ffn, pre_width, stride;  // stride: of activated rows
};

Sizes sizes_of(const FeedForwardWeights& weights) {
  const std::int64_t ffn = weights.down.dim(2);
  return {weights.down.dim(1), ffn, weights.up.dim(1), detail::activated_stride(ffn)};
}

template <class T>
Expert<T> expert_of(const FeedForwardWeights& weights, const Activation& activation,
                    std::int64_t expert) {
  const Sizes sizes = sizes_of(weights);
  const std::int64_t count = coefficient_count(activation);
  const T* coefficients = nullptr;
  if (count > 0) {
    const std::int64_t set = weights.coefficients.dim(0) == 1 ? 0 : expert;
    coefficients = weights.coefficients.data<T>() + set * count;
  }
  return {weights.up.data<T>() + expert * sizes.pre_width * sizes.hidden,
          weights.down.data<T>() + expert * sizes.hidden * sizes.ffn, coefficients};
}

template <class T>
const T* rows_from(const Tensor& optional, std::int64_t row) {
  return optional.defined() ? optional.data<T>() + row : nullptr;
}

// The pre-activations of a tile's rows.
template <class T>
void multiply_up(const FeedForwardWeights& weights, const Tensor& x, const RowTiles::Tile& tile,
                 const Tensor& pre) {
  const auto [hidden, ffn, pre_width, stride] = sizes_of(weights);
  const T* up = weights.up.data<T>() + tile.group * pre_width * hidden;
  cpu::gemm(tile.end - tile.begin, pre_width, hidden, T{1},
            {x.data<T>() + tile.begin * hidden, hidden, false}, {up, hidden, true}, T{0},
            pre.data<T>() + tile.begin * pre_width, pre_width);
}

template <class T>
void forward(const Activation& activation, const FeedForwardWeights& weights, const Tensor& x,
             const ExpertOffsets& offsets, const Tensor& row_weights, const Tensor& pre,
             const Tensor& y, const Tensor& activated) {
  const auto [hidden, ffn, pre_width, stride] = sizes_of(weights);
  const std::int64_t tile_rows = tile_rows_for(x.dim(0));
  const RowTiles tiles(offsets, tile_rows);
  cpu::parallel_for(tiles.count(), [&](std::int64_t i) {
    const RowTiles::Tile tile = tiles[i];
    const std::int64_t rows = tile.end - tile.begin;
    const Expert<T> expert = expert_of<T>(weights, activation, tile.group);
    T* pre_rows = pre.data<T>() + tile.begin * pre_width;
    T* h = activated.data<T>() + omp_get_thread_num() * std::min(tile_rows, x.dim(0)) * stride;
    multiply_up<T>(weights, x, tile, pre);
    cpu::activation_rows_forward(activation, cpu::ActivationForwardRows<T>{
                                                 .rows = rows,
                                                 .width = ffn,
                                                 .coefficients = expert.coefficients,
                                                 .x = pre_rows,
                                                 .row_scale = rows_from<T>(row_weights, tile.begin),
                                                 .y = h,
                                                 .y_stride = stride,
                                                 .streaming = false});
    cpu::gemm(rows, hidden, ffn, T{1}, {h, stride, false}, {expert.down, ffn, true}, T{0},
              y.data<T>() + tile.begin * hidden, hidden);
  });
}

template <class T>
void pre_activations(const FeedForwardWeights& weights, const Tensor& x,
                     const ExpertOffsets& offsets, const Tensor& pre) {
  const RowTiles tiles(offsets, tile_rows_for(x.dim(0)));
  cpu::parallel_for(tiles.count(),
                    [&](std::int64_t i) { multiply_up<T>(weights, x, tiles[i], pre); });
}

template <class T>
struct BackwardArguments {
  const Activation& activation;
  const FeedForwardWeights& weights;
  const Tensor& d_y;
  const Tensor& x;
  const ExpertOffsets& offsets;
  const Tensor& row_weights;
  const Tensor& pre;  // becomes its own gradient
  const Tensor& d_x;
  const Tensor& d_row_weights;
  const FeedForwardWeights& gradients;
  const Tensor& activated;
  const Tensor& partial_sums;
};

// Per tile: the activated rows' gradient, in its place the activated rows themselves, the
// pre-activations' gradient in their place, and d_x.
template <class T>
void backward_rows(const BackwardArguments<T>& a) {
  const auto [hidden, ffn, pre_width, stride] = sizes_of(a.weights);
  const std::int64_t count = coefficient_count(a.activation);
  const RowTiles tiles(a.offsets, tile_rows_for(a.x.dim(0)));
  const RowTiles blocks(a.offsets, RowTiles::unit);
  cpu::parallel_for(tiles.count(), [&](std::int64_t i) {
    const RowTiles::Tile tile = tiles[i];
    const std::int64_t rows = tile.end - tile.begin;
    const Expert<T> expert = expert_of<T>(a.weights, a.activation, tile.group);
    T* d_pre = a.pre.template data<T>() + tile.begin * pre_width;
    T* h = a.activated.template data<T>() + tile.begin * stride;
    cpu::gemm(rows, ffn, hidden, T{1},
              {a.d_y.template data<T>() + tile.begin * hidden, hidden, false},
              {expert.down, ffn, false}, T{0}, h, stride);
    const std::int64_t first_row = a.offsets[static_cast<std::size_t>(tile.group)];
    std::int64_t block = blocks.first_of(tile.group) + (tile.begin - first_row) / RowTiles::unit;
    for (std::int64_t begin = 0; begin < rows; begin += RowTiles::unit, ++block) {
      double* sums = count == 0 ? nullptr : a.partial_sums.template data<double>() + block * count;
      std::fill(sums, sums + count, 0.0);
      cpu::activation_rows_backward(
          a.activation,
          cpu::ActivationBackwardRows<T>{
              .rows = std::min(RowTiles::unit, rows - begin),
              .width = ffn,
              .coefficients = expert.coefficients,
              .x = d_pre + begin * pre_width,
              .row_scale = rows_from<T>(a.row_weights, tile.begin + begin),
              .d_y = h + begin * stride,
              .d_y_stride = stride,
              .d_x = d_pre + begin * pre_width,
              .y = h + begin * stride,
              .y_stride = stride,
              .d_row_scale = a.row_weights.defined()
                                 ? a.d_row_weights.template data<T>() + tile.begin + begin
                                 : nullptr,
              .d_coefficients = sums,
              .streaming = false});
    }
    cpu::gemm(rows, hidden, pre_width, T{1}, {d_pre, pre_width, false}, {expert.up, hidden, false},
              T{0}, a.d_x.template data<T>() + tile.begin * hidden, hidden);
  });
  if (count > 0) cpu::add_partial_sums(blocks, a.partial_sums, a.gradients.coefficients);
}

// Slabs of rows of the experts' weights. A sum over an expert's tokens is never split.
template <class T>
void backward_weights(const BackwardArguments<T>& a) {
  const auto [hidden, ffn, pre_width, stride] = sizes_of(a.weights);
  const std::int64_t experts = a.weights.down.dim(0);
  const std::int64_t threads = omp_get_max_threads(), wanted = divide_up(4 * threads, experts);
  const auto slab_rows = [&](std::int64_t rows) {
    return std::max(divide_up(divide_up(rows, wanted), 16) * 16, least_slab_rows);
  };
  const std::int64_t up_slab = slab_rows(pre_width), down_slab = slab_rows(hidden);
  const std::int64_t up_slabs = divide_up(pre_width, up_slab);
  const std::int64_t slabs = up_slabs + divide_up(hidden, down_slab);
  cpu::parallel_for(experts * slabs, [&](std::int64_t i) {
    const std::int64_t expert = i / slabs, slab = i % slabs;
    const std::int64_t first = a.offsets[static_cast<std::size_t>(expert)];
    const std::int64_t rows = a.offsets[static_cast<std::size_t>(expert) + 1] - first;
    if (rows == 0) return;
    if (slab < up_slabs) {
      const std::int64_t begin = slab * up_slab, size = std::min(up_slab, pre_width - begin);
      cpu::gemm(size, hidden, rows, T{1},
                {a.pre.template data<T>() + first * pre_width + begin, pre_width, true},
                {a.x.template data<T>() + first * hidden, hidden, false}, T{1},
                a.gradients.up.template data<T>() + (expert * pre_width + begin) * hidden, hidden);
    } else {
      const std::int64_t begin = (slab - up_slabs) * down_slab;
      const std::int64_t size = std::min(down_slab, hidden - begin);
      cpu::gemm(size, ffn, rows, T{1},
                {a.d_y.template data<T>() + first * hidden + begin, hidden, true},
                {a.activated.template data<T>() + first * stride, stride, false}, T{1},
                a.gradients.down.template data<T>() + (expert * hidden + begin) * ffn, ffn);
    }
  });
}

}  // namespace

namespace detail {

// oneDNN packs operands whose leading dimension is a multiple of 1024, and multiplies others in
// place where it is slower: 170 instead of 212 GFLOP/s on a core for 1024 x 768 x 512.
std::int64_t activated_stride(std::int64_t ffn) {
  constexpr std::int64_t packed = 1024;
  const std::int64_t padded = divide_up(ffn, packed) * packed;
  return 3 * padded <= 4 * ffn ? padded : ffn;
}

std::int64_t activated_tile_rows(std::int64_t rows) {
  return omp_get_max_threads() * std::min(tile_rows_for(rows), rows);
}

void feed_forward_forward(CpuBackend, const Activation& activation,
                          const FeedForwardWeights& weights, const Tensor& x,
                          const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                          Tensor y, const FeedForwardScratch& scratch, Stream&,
                          const LateRows* late) {
  // A tile's products and activation are one pass, and an expert's weights are packed for all of
  // its rows: they wait for the last.
  if (late != nullptr) late->arrive();
  if (x.dtype() == DType::f32) {
    forward<float>(activation, weights, x, offsets, row_weights, pre, y, scratch.activated);
  } else {
    forward<double>(activation, weights, x, offsets, row_weights, pre, y, scratch.activated);
  }
  if (late != nullptr) late->leave();
}

void feed_forward_pre_activations(CpuBackend, const FeedForwardWeights& weights, const Tensor& x,
                                  const ExpertOffsets& offsets, Tensor pre, Stream&) {
  if (x.dtype() == DType::f32) {
    pre_activations<float>(weights, x, offsets, pre);
  } else {
    pre_activations<double>(weights, x, offsets, pre);
  }
}

void feed_forward_backward(CpuBackend, const Activation& activation,
                           const FeedForwardWeights& weights, const Tensor& d_y, const Tensor& x,
                           const ExpertOffsets& offsets, const Tensor& row_weights, Tensor pre,
                           Tensor d_x, Tensor d_row_weights, FeedForwardWeights& gradients,
                           const FeedForwardScratch& scratch, Stream&, const LateRows* late) {
  if (late != nullptr) late->arrive();
  const auto run = [&]<class T>() {
    const BackwardArguments<T> arguments{
        activation, weights, d_y,           x,         offsets,           row_weights,
        pre,        d_x,     d_row_weights, gradients, scratch.activated, scratch.partial_sums};
    backward_rows(arguments);
    if (late != nullptr) late->leave();
    backward_weights(arguments);
  };
  if (x.dtype() == DType::f32) {
    run.operator()<float>();
  } else {
    run.operator()<double>();
  }
}

}  // namespace detail
}  // namespace polymoe
