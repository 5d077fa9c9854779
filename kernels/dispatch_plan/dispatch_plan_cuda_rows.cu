// SPDX-License-Identifier: Apache-2.0
// gather_rows, scatter_rows and sum_rows: whole rows, one warp each, 16 bytes per lane where rows
// allow it.
#include "kernels/dispatch_plan/dispatch_plan_backends.h"

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::detail {
namespace {

using cuda::Pack;
using cuda::warp_size;

constexpr int threads = 256;
constexpr int rows_per_block = threads / warp_size;

bool aligned(const Tensor& tensor, std::size_t row_bytes, std::size_t bytes) {
  return row_bytes % bytes == 0 && reinterpret_cast<std::uintptr_t>(tensor.raw()) % bytes == 0;
}

template <class Unit>
__global__ void __launch_bounds__(threads)
    gather(const Unit* x, std::int64_t first_of_more, const Unit* more, const std::int32_t* indices,
           int divisor, std::int64_t rows, std::int64_t units, Unit* out) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t stride = std::int64_t{gridDim.x} * rows_per_block;
  for (std::int64_t r = blockIdx.x * std::int64_t{rows_per_block} + threadIdx.x / warp_size;
       r < rows; r += stride) {
    const std::int64_t row = indices[r] / divisor;
    const Unit* from = row < first_of_more ? x + row * units : more + (row - first_of_more) * units;
    Unit* to = out + r * units;
#pragma unroll 4
    for (std::int64_t i = lane; i < units; i += warp_size) to[i] = from[i];
  }
}

template <class Unit>
void launch_gather(const Tensor& x, const Tensor& more, const Tensor& indices, std::int64_t divisor,
                   const Tensor& out, std::size_t row_bytes, Stream& stream) {
  const std::int64_t rows = indices.dim(0);
  gather<Unit><<<cuda::blocks_for(rows, rows_per_block), threads, 0, cuda::native(stream)>>>(
      static_cast<const Unit*>(x.raw()), x.dim(0),
      static_cast<const Unit*>(more.defined() ? more.raw() : nullptr), indices.data<std::int32_t>(),
      static_cast<int>(divisor), rows, static_cast<std::int64_t>(row_bytes / sizeof(Unit)),
      static_cast<Unit*>(out.raw()));
  cuda::check_launch("gather_rows");
}

// A warp has a token: its row is read once, some units of each lane at a time, and written to where
// each of its slots is.
template <class Unit>
__global__ void __launch_bounds__(threads)
    scatter(const Unit* x, const std::int32_t* slot_rows, std::int64_t tokens, int top_k,
            std::int64_t units, Unit* out) {
  constexpr int held = 4;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t stride = std::int64_t{gridDim.x} * rows_per_block;
  for (std::int64_t t = blockIdx.x * std::int64_t{rows_per_block} + threadIdx.x / warp_size;
       t < tokens; t += stride) {
    const std::int32_t* slots = slot_rows + t * top_k;
    const Unit* from = x + t * units;
    for (std::int64_t begin = lane; begin < units; begin += held * warp_size) {
      Unit values[held];
#pragma unroll
      for (int h = 0; h < held; ++h) {
        const std::int64_t i = begin + h * warp_size;
        if (i < units) values[h] = from[i];
      }
      for (int j = 0; j < top_k; ++j) {
        const std::int64_t row = slots[j];
        if (row < 0) continue;
        Unit* to = out + row * units;
#pragma unroll
        for (int h = 0; h < held; ++h) {
          const std::int64_t i = begin + h * warp_size;
          if (i < units) to[i] = values[h];
        }
      }
    }
  }
}

template <class Unit>
void launch_scatter(const Tensor& x, const Tensor& slot_rows, const Tensor& out,
                    std::size_t row_bytes, Stream& stream) {
  const std::int64_t tokens = x.dim(0);
  scatter<Unit><<<cuda::blocks_for(tokens, rows_per_block), threads, 0, cuda::native(stream)>>>(
      static_cast<const Unit*>(x.raw()), slot_rows.data<std::int32_t>(), tokens,
      static_cast<int>(slot_rows.dim(1)), static_cast<std::int64_t>(row_bytes / sizeof(Unit)),
      static_cast<Unit*>(out.raw()));
  cuda::check_launch("scatter_rows");
}

// The sum is f32 and rounded once.
template <class T, int count>
__global__ void __launch_bounds__(threads)
    sum(const Pack<T, count>* rows, const std::int32_t* slot_rows, std::int64_t tokens, int top_k,
        std::int64_t packs, bool accumulate, Pack<T, count>* y) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t stride = std::int64_t{gridDim.x} * rows_per_block;
  for (std::int64_t t = blockIdx.x * std::int64_t{rows_per_block} + threadIdx.x / warp_size;
       t < tokens; t += stride) {
    const std::int32_t* slots = slot_rows + t * top_k;
    for (std::int64_t i = lane; i < packs; i += warp_size) {
      float sums[count] = {};
      if (accumulate) {
        const Pack<T, count> before = y[t * packs + i];
        for (int c = 0; c < count; ++c) sums[c] = cuda::to_float(before.values[c]);
      }
#pragma unroll 4
      for (int j = 0; j < top_k; ++j) {
        const std::int64_t row = slots[j];
        if (row < 0) continue;
        const Pack<T, count> pack = rows[row * packs + i];
        for (int c = 0; c < count; ++c) sums[c] += cuda::to_float(pack.values[c]);
      }
      Pack<T, count> result;
      for (int c = 0; c < count; ++c) result.values[c] = cuda::from_float<T>(sums[c]);
      y[t * packs + i] = result;
    }
  }
}

template <class T, int count>
void launch_sum(const Tensor& rows, const Tensor& slot_rows, Write write, const Tensor& y,
                Stream& stream) {
  using Packed = Pack<T, count>;
  const std::int64_t tokens = slot_rows.dim(0);
  sum<T, count><<<cuda::blocks_for(tokens, rows_per_block), threads, 0, cuda::native(stream)>>>(
      static_cast<const Packed*>(rows.raw()), slot_rows.data<std::int32_t>(), tokens,
      static_cast<int>(slot_rows.dim(1)), rows.dim(1) / count, write == Write::accumulate,
      static_cast<Packed*>(y.raw()));
  cuda::check_launch("sum_rows");
}

template <class T>
void sum_rows_of(const Tensor& rows, const Tensor& slot_rows, Write write, const Tensor& y,
                 Stream& stream) {
  constexpr int wide = 16 / sizeof(T);
  const std::size_t row_bytes = static_cast<std::size_t>(rows.dim(1)) * sizeof(T);
  if (aligned(rows, row_bytes, 16) && aligned(y, row_bytes, 16)) {
    launch_sum<T, wide>(rows, slot_rows, write, y, stream);
  } else {
    launch_sum<T, 1>(rows, slot_rows, write, y, stream);
  }
}

}  // namespace

void gather_rows(CudaBackend, const Tensor& x, const Tensor& more, const Tensor& indices,
                 std::int64_t divisor, Tensor out, Stream& stream) {
  if (out.elements() == 0) return;
  const std::size_t row_bytes = out.bytes() / static_cast<std::size_t>(out.dim(0));
  const auto fits = [&](std::size_t bytes) {
    return aligned(x, row_bytes, bytes) && aligned(out, row_bytes, bytes) &&
           (!more.defined() || aligned(more, row_bytes, bytes));
  };
  if (fits(16)) return launch_gather<uint4>(x, more, indices, divisor, out, row_bytes, stream);
  if (fits(4)) return launch_gather<unsigned>(x, more, indices, divisor, out, row_bytes, stream);
  launch_gather<unsigned short>(x, more, indices, divisor, out, row_bytes, stream);
}

void scatter_rows(CudaBackend, const Tensor& x, const Tensor& slot_rows, Tensor out,
                  Stream& stream) {
  if (x.elements() == 0) return;
  const std::size_t row_bytes = x.bytes() / static_cast<std::size_t>(x.dim(0));
  const auto fits = [&](std::size_t bytes) {
    return aligned(x, row_bytes, bytes) && aligned(out, row_bytes, bytes);
  };
  if (fits(16)) return launch_scatter<uint4>(x, slot_rows, out, row_bytes, stream);
  if (fits(4)) return launch_scatter<unsigned>(x, slot_rows, out, row_bytes, stream);
  launch_scatter<unsigned short>(x, slot_rows, out, row_bytes, stream);
}

void sum_rows(CudaBackend, const Tensor& rows, const Tensor& slot_rows, Write write, Tensor y,
              Stream& stream) {
  if (y.elements() == 0) return;
  if (rows.dtype() == DType::bf16) {
    sum_rows_of<__nv_bfloat16>(rows, slot_rows, write, y, stream);
  } else {
    sum_rows_of<float>(rows, slot_rows, write, y, stream);
  }
}

}  // namespace polymoe::detail
