// SPDX-License-Identifier: Apache-2.0
// The activation between an expert's two products: rows times weights, one warp per row, 64 rows of
// one group per block. A row is read twice, the second time from cache.
#include "kernels/feed_forward/feed_forward_cuda_activation.h"

#include <string>

#include "kernels/activation/activation_cuda_element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/packs.cuh"
#include "kernels/row_tiles.h"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;
constexpr int tile_rows = static_cast<int>(RowTiles::unit);

// Which rows a block takes; travels with the launch.
struct Tiles {
  static constexpr int most_groups = 1024;
  int groups;
  int first_row[most_groups + 1], first_tile[most_groups + 1];

  __device__ int group_of(int tile) const {
    int low = 0, high = groups - 1;  // the last group that starts at or before `tile`
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_tile[middle] <= tile) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }
};

Tiles tiles_of(const std::vector<std::int64_t>& offsets) {
  const std::size_t groups = offsets.size() - 1;
  if (groups > Tiles::most_groups) {
    throw InvalidArgument("feed_forward: " + std::to_string(groups) +
                          " experts on one GPU, allowed are " + std::to_string(Tiles::most_groups));
  }
  Tiles tiles;
  tiles.groups = static_cast<int>(groups);
  tiles.first_row[0] = tiles.first_tile[0] = 0;
  for (std::size_t g = 0; g < groups; ++g) {
    const auto rows = static_cast<int>(offsets[g + 1] - offsets[g]);
    tiles.first_row[g + 1] = tiles.first_row[g] + rows;
    tiles.first_tile[g + 1] = tiles.first_tile[g] + (rows + tile_rows - 1) / tile_rows;
  }
  return tiles;
}

struct Arguments {
  ActivationKind kind;
  int order, count;  // count: of coefficients
  float epsilon;
  const float* coefficients;
  int set_stride;  // between groups' sets; 0 for one set
  const float* row_weights;
  int width;  // of y
  void* x;
  void* y;  // forward: out; backward: d_y in, y out
  float* d_row_weights;
  double* partial_sums;  // null where there are no coefficients
};

template <class T, int size, class Act>
__device__ void for_each_pack(int width, const Act& act) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  for (int i = lane; i < width / size; i += warp_size) act(i);
}

// One row of the PolyNorm family: with r_p = rsqrt(mean(t^2p) + epsilon), y and d_x are polynomials
// of t = x or max(x, 0).
template <class T, int size, int order, bool backward>
struct PolyNormRow {
  using Packed = Pack<T, size>;

  __device__ static void run(const Arguments& in, const float* a, float weight, Packed* x,
                             Packed* y, float& d_weight, float (&d_a)[most_coefficients]) {
    const float floor = in.kind == ActivationKind::polyrelunorm ? 0.0f : -INFINITY;
    const float inverse_width = 1.0f / static_cast<float>(in.width);
    float even[order] = {}, sums[order + 1] = {};
    for_each_pack<T, size>(in.width, [&](int i) {
      const Packed px = x[i];
      Packed pg;
      if constexpr (backward) pg = y[i];
#pragma unroll
      for (int c = 0; c < size; ++c) {
        const float v = f32_of(px.values[c]), t = v <= floor ? floor : v, t2 = t * t;
        float power = t2;
        even[0] += t2;
#pragma unroll
        for (int p = 2; p <= order; ++p) {
          even[p - 1] = fmaf(power, t2, even[p - 1]);
          power *= t2;
        }
        if constexpr (backward) {
          float term = f32_of(pg.values[c]);
          sums[0] += term;
#pragma unroll
          for (int p = 1; p <= order; ++p) {
            sums[p] = fmaf(term, t, sums[p]);
            term *= t;
          }
        }
      }
    });
    float value[order + 1], slope[order], pull[order];
    value[0] = weight * a[0];
    if constexpr (backward) {
      sums[0] = warp_sum(sums[0]);
      d_weight = a[0] * sums[0];
      d_a[0] = weight * sums[0];
    }
#pragma unroll
    for (int p = 1; p <= order; ++p) {
      const float r = rsqrtf(fmaf(warp_sum(even[p - 1]), inverse_width, in.epsilon));
      value[p] = weight * a[p] * r;
      if constexpr (backward) {
        const float s = r * warp_sum(sums[p]);
        d_weight = fmaf(a[p], s, d_weight);
        d_a[p] = weight * s;
        slope[p - 1] = static_cast<float>(p) * value[p];
        pull[p - 1] = slope[p - 1] * r * s * inverse_width;
      }
    }
    for_each_pack<T, size>(in.width, [&](int i) {
      const Packed px = x[i];
      Packed pg, out, d_x;
      if constexpr (backward) pg = y[i];
#pragma unroll
      for (int c = 0; c < size; ++c) {
        const float v = f32_of(px.values[c]), t = v <= floor ? floor : v;
        float result = value[order];
#pragma unroll
        for (int p = order - 1; p >= 0; --p) result = fmaf(result, t, value[p]);
        out.values[c] = rounded<T>(result);
        if constexpr (backward) {
          float direct = slope[order - 1], back = pull[order - 1];
#pragma unroll
          for (int p = order - 2; p >= 0; --p) {
            direct = fmaf(direct, t, slope[p]);
            back = fmaf(back, t * t, pull[p]);
          }
          const float d = fmaf(f32_of(pg.values[c]), direct, -t * back);
          d_x.values[c] = rounded<T>(v <= floor ? 0.0f : d);
        }
      }
      if constexpr (backward) x[i] = d_x;
      y[i] = out;
    });
  }
};

// One row of any other activation.
template <class T, int size, bool backward>
__device__ void element_row(const Arguments& in, const float* a, float weight, Pack<T, size>* x,
                            Pack<T, size>* y, float& d_weight, float (&d_a)[most_coefficients]) {
  using Packed = Pack<T, size>;
  ElementFormula formula{in.kind, in.order, {}};
#pragma unroll
  for (int i = 0; i < most_coefficients; ++i) formula.a[i] = i < in.count ? a[i] : 0.0f;
  const bool gated = in.kind == ActivationKind::swiglu;
  Packed* up = x + in.width / size;  // swiglu: the row is [gate, up]
  for_each_pack<T, size>(in.width, [&](int i) {
    const Packed px = x[i];
    Packed pu, pg, out, d_x, d_up;
    if (gated) pu = up[i];
    if constexpr (backward) pg = y[i];
#pragma unroll
    for (int c = 0; c < size; ++c) {
      const float v = f32_of(px.values[c]);
      const float factor = gated ? f32_of(pu.values[c]) : 1.0f;
      float slope;
      const float value = gated ? silu(v, slope) : formula(v, slope);
      out.values[c] = rounded<T>(weight * value * factor);
      if constexpr (backward) {
        const float g = f32_of(pg.values[c]), scaled = weight * g;
        d_x.values[c] = rounded<T>(scaled * factor * slope);
        d_up.values[c] = rounded<T>(scaled * value);
        d_weight = fmaf(g, value * factor, d_weight);
        if (in.count > 0) formula.add_coefficient_sums(v, scaled, d_a);
      }
    }
    if constexpr (backward) {
      x[i] = d_x;
      if (gated) up[i] = d_up;
    }
    y[i] = out;
  });
  if constexpr (backward) {
    d_weight = warp_sum(d_weight);
    if (in.count == 0) return;
#pragma unroll
    for (int i = 0; i < most_coefficients; ++i) d_a[i] = warp_sum(d_a[i]);
  }
}

// order is 0 for what is not of the PolyNorm family.
template <class T, int size, int order, bool backward>
__global__ void __launch_bounds__(threads)
    act_on_tile(const __grid_constant__ Tiles tiles, const __grid_constant__ Arguments in) {
  const int tile = static_cast<int>(blockIdx.x), group = tiles.group_of(tile);
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int begin = tiles.first_row[group] + (tile - tiles.first_tile[group]) * tile_rows;
  const int end = min(begin + tile_rows, tiles.first_row[group + 1]);
  const float* a = in.coefficients + group * in.set_stride;
  const std::int64_t x_width = in.kind == ActivationKind::swiglu ? 2 * in.width : in.width;
  double totals[most_coefficients] = {};
  for (int row = begin + warp; row < end; row += warps) {
    using Packed = Pack<T, size>;
    auto* x = reinterpret_cast<Packed*>(static_cast<T*>(in.x) + row * x_width);
    auto* y = reinterpret_cast<Packed*>(static_cast<T*>(in.y) + row * std::int64_t{in.width});
    const float weight = in.row_weights == nullptr ? 1.0f : in.row_weights[row];
    float d_weight = 0.0f, d_a[most_coefficients] = {};
    if constexpr (order == 0) {
      element_row<T, size, backward>(in, a, weight, x, y, d_weight, d_a);
    } else {
      PolyNormRow<T, size, order, backward>::run(in, a, weight, x, y, d_weight, d_a);
    }
    if constexpr (backward) {
      if (lane == 0 && in.d_row_weights != nullptr) in.d_row_weights[row] = d_weight;
#pragma unroll
      for (int i = 0; i < most_coefficients; ++i) totals[i] += static_cast<double>(d_a[i]);
    }
  }
  if constexpr (backward) {
    if (in.partial_sums == nullptr) return;
    __shared__ double shared[warps][most_coefficients];
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < most_coefficients; ++i) shared[warp][i] = totals[i];
    }
    __syncthreads();
    const int i = static_cast<int>(threadIdx.x);
    if (i < in.count) {
      double sum = 0.0;
      for (int w = 0; w < warps; ++w) sum += shared[w][i];
      in.partial_sums[std::int64_t{tile} * in.count + i] = sum;
    }
  }
}

// A block per set and coefficient.
__global__ void __launch_bounds__(threads)
    add_tiles(const __grid_constant__ Tiles tiles, const double* partial_sums, int count,
              bool one_set, float* d_coefficients) {
  __shared__ double scratch[warps];
  const int set = static_cast<int>(blockIdx.x) / count, i = static_cast<int>(blockIdx.x) % count;
  const int end = tiles.first_tile[one_set ? tiles.groups : set + 1];
  double sum = 0.0;
  for (int t = (one_set ? 0 : tiles.first_tile[set]) + static_cast<int>(threadIdx.x); t < end;
       t += threads) {
    sum += partial_sums[std::int64_t{t} * count + i];
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) d_coefficients[blockIdx.x] += static_cast<float>(sum);
}

template <class T, int size, bool backward>
void launch_for(const Tiles& tiles, const Arguments& in, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(tiles.first_tile[tiles.groups]);
  const bool norm = in.kind == ActivationKind::polynorm || in.kind == ActivationKind::polyrelunorm;
  switch (norm ? in.order : 0) {
    case 2:
      act_on_tile<T, size, 2, backward><<<grid, threads, 0, stream>>>(tiles, in);
      break;
    case 3:
      act_on_tile<T, size, 3, backward><<<grid, threads, 0, stream>>>(tiles, in);
      break;
    case 4:
      act_on_tile<T, size, 4, backward><<<grid, threads, 0, stream>>>(tiles, in);
      break;
    default:
      act_on_tile<T, size, 0, backward><<<grid, threads, 0, stream>>>(tiles, in);
  }
  check_launch("weighted_activation");
}

template <bool backward>
void launch(const WeightedActivation& in, const Tensor& x, const Tensor& y,
            const Tensor& d_row_weights, const Tensor& partial_sums, const Tiles& tiles,
            Stream& stream) {
  const int count = coefficient_count(in.activation);
  const bool one_set = count == 0 || in.coefficients.dim(0) == 1;
  const Arguments arguments{
      .kind = in.activation.kind,
      .order = in.activation.order,
      .count = count,
      .epsilon = static_cast<float>(in.activation.epsilon),
      .coefficients = count == 0 ? nullptr : in.coefficients.data<float>(),
      .set_stride = one_set ? 0 : count,
      .row_weights = in.row_weights.defined() ? in.row_weights.data<float>() : nullptr,
      .width = static_cast<int>(y.dim(1)),
      .x = x.raw(),
      .y = y.raw(),
      .d_row_weights = backward && in.row_weights.defined() ? d_row_weights.data<float>() : nullptr,
      .partial_sums = backward && count > 0 ? partial_sums.data<double>() : nullptr};
  const auto wide = [&](std::size_t element) {
    const auto addresses =
        reinterpret_cast<std::uintptr_t>(x.raw()) | reinterpret_cast<std::uintptr_t>(y.raw());
    return addresses % 16 == 0 && static_cast<std::size_t>(y.dim(1)) * element % 16 == 0;
  };
  if (x.dtype() == DType::bf16) {
    if (wide(2)) return launch_for<__nv_bfloat16, 8, backward>(tiles, arguments, native(stream));
    return launch_for<__nv_bfloat16, 1, backward>(tiles, arguments, native(stream));
  }
  if (wide(4)) return launch_for<float, 4, backward>(tiles, arguments, native(stream));
  launch_for<float, 1, backward>(tiles, arguments, native(stream));
}

}  // namespace

void weighted_activation_forward(const WeightedActivation& in, const Tensor& x, const Tensor& y,
                                 Stream& stream) {
  if (y.elements() == 0) return;
  launch<false>(in, x, y, Tensor{}, Tensor{}, tiles_of(in.offsets), stream);
}

void weighted_activation_backward(const WeightedActivation& in, const Tensor& x, const Tensor& d_y,
                                  const Tensor& d_row_weights, const Tensor& d_coefficients,
                                  const Tensor& partial_sums, Stream& stream) {
  if (d_y.elements() == 0) return;
  const Tiles tiles = tiles_of(in.offsets);
  launch<true>(in, x, d_y, d_row_weights, partial_sums, tiles, stream);
  const int count = coefficient_count(in.activation);
  if (count == 0) return;
  const bool one_set = d_coefficients.dim(0) == 1;
  add_tiles<<<static_cast<unsigned>(d_coefficients.elements()), threads, 0, native(stream)>>>(
      tiles, partial_sums.data<double>(), count, one_set, d_coefficients.data<float>());
  check_launch("weighted_activation coefficients");
}

}  // namespace polymoe::cuda
