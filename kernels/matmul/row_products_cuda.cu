// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul/row_products_cuda.h"

#include <cuda_runtime.h>

#include "kernels/cuda/real_dtype.cuh"
#include "kernels/matmul/row_products_backends.h"
#include "kernels/matmul/row_products_cuda_sources.cuh"
#include "kernels/matmul/row_products_cuda_stream.cuh"
#include "kernels/rms_norm/rms_norm.h"

namespace polymoe::cuda {
namespace {

/// The tiles of all parts, one behind the other.
template <class T, class Out>
struct Parts {
  static constexpr int matrices = 1;
  int tiles, vectors, k, parts;
  const T* weights[RowProducts::most];
  Out* y[RowProducts::most];
  const Out* residual[RowProducts::most];  // or null
  int outputs[RowProducts::most];
  int end[RowProducts::most];  // its last tile's, one past

  struct Place {
    int part, first;  // row of the tile's first result
  };
  __device__ Place place(int tile) const {
    int part = 0, begin = 0;
#pragma unroll
    for (int p = 1; p < RowProducts::most; ++p) {
      if (p >= parts || tile < end[p - 1]) continue;
      part = p;
      begin = end[p - 1];
    }
    return {part, (tile - begin) * RowStream::tile_rows};
  }
  __device__ WeightTile tile(int tile, int) const {
    const Place at = place(tile);
    return {weights[at.part] + std::int64_t{at.first} * k,
            min(outputs[at.part] - at.first, RowStream::tile_rows)};
  }
  __device__ float before(int tile, int row) const {
    const Place at = place(tile);
    return residual[at.part] == nullptr ? 0.0F : to_float(residual[at.part][at.first + row]);
  }
  __device__ void keep(int tile, int row, float sum) const {
    const Place at = place(tile);
    y[at.part][at.first + row] = from_float<Out>(sum);
  }
};

template <class T, class Out, class Source>
__global__ void __launch_bounds__(RowStream::threads)
    streamed_products(const __grid_constant__ Parts<T, Out> parts, const Source source) {
  extern __shared__ uint4 shared[];
  let_next_begin();
  WeightStream stream(parts, shared + source.shared_vectors());
  stream.begin();  // no kernel of a step writes weights
  source.prepare(shared);
  wait_for_previous();
  source.fetch(shared);
  source.template form<0>(shared);
  multiply_rows<T>(parts, stream, shared);
}

// Rows that are not made of vectors, or too long: two results a warp, one after the other.
template <class T, class Out>
__global__ void __launch_bounds__(RowStream::threads)
    any_products(const __grid_constant__ Parts<T, Out> parts, const T* x) {
  let_next_begin();
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int tile = static_cast<int>(blockIdx.x);
  const WeightTile rows = parts.tile(tile, 0);
  const T* const first = static_cast<const T*>(rows.first);
  wait_for_previous();
  for (int r = static_cast<int>(threadIdx.x) / warp_size; r < rows.rows; r += RowStream::warps) {
    const T* const weights = first + std::int64_t{r} * parts.k;
    float sum = 0.0F;
    for (int i = lane; i < parts.k; i += warp_size)
      sum = fmaf(to_float(weights[i]), to_float(x[i]), sum);
    sum = sum_over_warp(sum);
    if (lane == 0) parts.keep(tile, r, parts.before(tile, r) + sum);
  }
}

template <class T>
RowArguments<T> row_of(const RowProducts& products) {
  return {static_cast<const T*>(products.x), static_cast<const T*>(products.scale),
          products.epsilon, static_cast<int>(products.k)};
}

/// Whether the row can be formed in shared memory, and weights streamed beside it.
template <class T>
bool streams(const RowProducts& products) {
  bool vectors = row_of<T>(products).streams();
  for (int p = 0; p < products.count; ++p)
    vectors =
        vectors && in_vectors<T>(products.k, {products.parts[static_cast<std::size_t>(p)].weight});
  return vectors;
}

template <class T, class Out>
void launch_products(const RowProducts& products, Stream& stream) {
  Parts<T, Out> a{};
  a.k = static_cast<int>(products.k);
  a.vectors = a.k / Vector<T>::size;
  for (int p = 0; p < products.count; ++p) {
    const RowProducts::Part& part = products.parts[static_cast<std::size_t>(p)];
    if (part.outputs == 0) continue;
    a.tiles += RowStream::tiles_of(static_cast<int>(part.outputs));
    a.weights[a.parts] = static_cast<const T*>(part.weight);
    a.y[a.parts] = static_cast<Out*>(part.y);
    a.residual[a.parts] = static_cast<const Out*>(part.residual);
    a.outputs[a.parts] = static_cast<int>(part.outputs);
    a.end[a.parts] = a.tiles;
    ++a.parts;
  }
  if (a.tiles == 0) return;
  const RowArguments<T> row = row_of<T>(products);
  if (!streams<T>(products)) {
    launch_early<&any_products<T, Out>>(dim3(static_cast<unsigned>(a.tiles)), RowStream::threads, 0,
                                        native(stream), a, row.x);
    return;
  }
  row.with_source([&]<class Source>(const Source& source) {
    launch_row_stream<&streamed_products<T, Out, Source>>(
        a.tiles, static_cast<std::size_t>(source.shared_vectors()), stream, a, source);
  });
}

}  // namespace

bool norms_in_product(const RowProducts& products) {
  bool result = false;
  with_real(products.input, [&]<class T>(T) { result = streams<T>(products); });
  return result;
}

void multiply_row(const RowProducts& products, Stream& stream) {
  with_real(products.input, [&]<class T>(T) {
    if (products.output == products.input)
      launch_products<T, T>(products, stream);
    else
      launch_products<T, float>(products, stream);
  });
}

}  // namespace polymoe::cuda

namespace polymoe::detail {

void row_products(CudaBackend, const RowInput& input, std::span<const RowProduct> products,
                  const NormedRow& normed, Stream& stream) {
  bool is_normed = false;
  // One kernel for those of one output dtype.
  for (const DType output : {DType::bf16, DType::f32}) {
    cuda::RowProducts call{};
    call.x = input.x.raw();
    call.scale = input.scale.raw();
    call.epsilon = static_cast<float>(input.epsilon);
    call.k = input.x.dim(1);
    call.input = input.x.dtype();
    call.output = output;
    for (const RowProduct& product : products) {
      if (product.y.dtype() != output) continue;
      call.parts[static_cast<std::size_t>(call.count++)] = {
          product.weight.raw(), product.y.raw(), product.residual.raw(), product.weight.dim(0)};
    }
    if (call.count == 0) continue;
    if (call.scale != nullptr && !cuda::norms_in_product(call)) {
      if (!is_normed)
        rms_norm_forward(input.x, input.scale, input.epsilon, normed.y, normed.inv_rms, stream);
      is_normed = true;
      call.x = normed.y.raw();
      call.scale = nullptr;
    }
    cuda::multiply_row(call, stream);
  }
}

}  // namespace polymoe::detail
