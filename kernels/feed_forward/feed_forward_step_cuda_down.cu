// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "kernels/cuda/real_dtype.cuh"
#include "kernels/feed_forward/feed_forward_step_cuda.h"
#include "kernels/feed_forward/feed_forward_step_cuda_activated.cuh"
#include "kernels/matmul/row_products_cuda_stream.cuh"

namespace polymoe::cuda {
namespace {

/// The row of result r: those of the slots' experts, one behind the other.
template <class T>
struct SlotMatrices {
  const T* weights;            // [experts, results, k]
  const std::int32_t* chosen;  // [matrices]; null: the only one
  const T* residual;
  T* y;
  int tiles, results, matrices, vectors, k;

  __device__ WeightTile tile(int tile, int slot) const {
    const std::int64_t expert = chosen == nullptr ? 0 : chosen[slot];
    const int first = tile * RowStream::tile_rows;
    return {weights + (expert * results + first) * k, min(results - first, RowStream::tile_rows)};
  }
  __device__ float before(int tile, int row) const {
    return to_float(residual[tile * RowStream::tile_rows + row]);
  }
  __device__ void keep(int tile, int row, float sum) const {
    y[tile * RowStream::tile_rows + row] = from_float<T>(sum);
  }
};

template <class T, class Source>
__global__ void __launch_bounds__(RowStream::threads)
    streamed_sums(const __grid_constant__ SlotMatrices<T> matrices, const Source source) {
  extern __shared__ uint4 shared[];
  let_next_begin();
  WeightStream<SlotMatrices<T>> stream(matrices, shared + source.shared_vectors());
  if (matrices.chosen == nullptr) {
    stream.begin();  // no kernel of a step writes weights
    wait_for_previous();
    source.fetch(shared);
    source.template form<0>(shared);
  } else {
    wait_for_previous();
    source.fetch(shared);
    stream.begin();
    source.template form<RowStream::requests>(shared);
  }
  multiply_rows<T>(matrices, stream, shared);
}

// Rows that are not made of vectors, or too long: a tile per block.
template <class T>
__global__ void __launch_bounds__(RowStream::threads)
    any_sums(const __grid_constant__ SlotMatrices<T> matrices, const T* activated) {
  let_next_begin();
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int tile = static_cast<int>(blockIdx.x);
  wait_for_previous();
  const int rows = matrices.tile(tile, 0).rows;
  for (int r = static_cast<int>(threadIdx.x) / warp_size; r < rows; r += RowStream::warps) {
    float sum = 0.0F;
    for (int slot = 0; slot < matrices.matrices; ++slot) {
      const T* weights =
          static_cast<const T*>(matrices.tile(tile, slot).first) + std::int64_t{r} * matrices.k;
      const T* x = activated + std::int64_t{slot} * matrices.k;
      for (int i = lane; i < matrices.k; i += warp_size)
        sum = fmaf(to_float(weights[i]), to_float(x[i]), sum);
    }
    sum = sum_over_warp(sum);
    if (lane == 0) matrices.keep(tile, r, matrices.before(tile, r) + sum);
  }
}

const std::int32_t* ids_of(const ActivatedDown& call) {
  return static_cast<const std::int32_t*>(call.ids.raw());
}

template <class T>
SlotMatrices<T> matrices_of(const ActivatedDown& call) {
  const int k = static_cast<int>(call.down.dim(2)), results = static_cast<int>(call.down.dim(1));
  return {.weights = static_cast<const T*>(call.down.raw()),
          .chosen = ids_of(call),
          .residual = static_cast<const T*>(call.residual.raw()),
          .y = static_cast<T*>(call.y.raw()),
          .tiles = RowStream::tiles_of(results),
          .results = results,
          .matrices = static_cast<int>(call.pre.dim(0)),
          .vectors = k / Vector<T>::size,
          .k = k};
}

/// Calls operation(source) with the activated row.
template <class T, class Operation>
void with_activated(const ActivatedDown& call, const Operation& operation) {
  const auto rows =
      activation_rows<T>(call.activation, call.pre, call.coefficients, call.row_weights);
  const bool own = call.coefficients.defined() && call.coefficients.dim(0) > 1;
  const std::int32_t* const chosen = own ? ids_of(call) : nullptr;
  const int slots = static_cast<int>(call.pre.dim(0)), vectors = rows.width / Vector<T>::size;
  if (norms_rows(call.activation.kind)) {
    const PolyNormRows<T> normed(rows, call.activation);
    with_order(call.activation.order, [&](auto order) {
      operation(PolyNormedRow<T, order.value>{{normed, chosen, slots, vectors}});
    });
  } else {
    with_formula<DeviceMath>(call.activation, [&]<class Formula>() {
      operation(ActivatedRow<T, Formula>{{rows, chosen, slots, vectors}});
    });
  }
}

}  // namespace

bool activates_in_product(const ActivatedDown& call) {
  bool result = false;
  with_real(call.pre.dtype(), [&]<class T>(T) {
    const std::int64_t width = call.down.dim(2);
    const auto vectors = static_cast<std::size_t>(call.pre.dim(0) * width / Vector<T>::size);
    result = in_vectors<T>(width, {call.pre.raw(), call.down.raw()}) && vectors > 0 &&
             RowStreamDevice::of_current().has_room(vectors);
  });
  return result;
}

void add_activated_products(const ActivatedDown& call, Stream& stream) {
  with_real(call.pre.dtype(), [&]<class T>(T) {
    const SlotMatrices<T> matrices = matrices_of<T>(call);
    with_activated<T>(call, [&]<class Source>(const Source& source) {
      launch_row_stream<&streamed_sums<T, Source>>(
          matrices.tiles, static_cast<std::size_t>(source.shared_vectors()), stream, matrices,
          source);
    });
  });
}

void add_products(const ActivatedDown& call, const Tensor& activated, Stream& stream) {
  with_real(call.pre.dtype(), [&]<class T>(T) {
    const SlotMatrices<T> matrices = matrices_of<T>(call);
    launch_early<&any_sums<T>>(dim3(static_cast<unsigned>(matrices.tiles)), RowStream::threads, 0,
                               native(stream), matrices, static_cast<const T*>(activated.raw()));
  });
}

}  // namespace polymoe::cuda
