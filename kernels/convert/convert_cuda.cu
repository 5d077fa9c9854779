// SPDX-License-Identifier: Apache-2.0
#include "kernels/convert/convert_backends.h"

#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/copy.h"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

// A thread's accesses are made before any of its stores: enough bytes on their way to fill the
// memory's latency.
constexpr int pieces = 4;

// 16 bytes of f32 beside 8 of bf16, neighbouring threads side by side in both.
template <class From, class To>
__global__ void __launch_bounds__(element_threads)
    convert_elements(const From* x, To* y, std::int64_t fours, std::int64_t count) {
  constexpr int block_fours = pieces * element_threads;
  for (std::int64_t first = std::int64_t{blockIdx.x} * block_fours + threadIdx.x; first < fours;
       first += std::int64_t{gridDim.x} * block_fours) {
    float values[pieces][4];
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      const std::int64_t i = first + p * element_threads;
      if (i < fours) load_four(x + 4 * i, values[p]);
    }
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      const std::int64_t i = first + p * element_threads;
      if (i < fours) store_four(y + 4 * i, values[p]);
    }
  }
  for (std::int64_t i = 4 * fours + first_element(); i < count; i += element_stride()) {
    y[i] = from_float<To>(to_float(x[i]));
  }
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void convert(CudaBackend, const Tensor& x, Tensor y, Stream& stream) {
  if (x.dtype() == y.dtype()) return copy(x, y, stream);
  const std::int64_t count = x.elements();
  const std::int64_t fours = cuda::in_vectors<float>(4, {x.raw(), y.raw()}) ? count / 4 : 0;
  const unsigned blocks = cuda::element_blocks(count, fours > 0 ? 4 * cuda::pieces : 1);
  const auto native = cuda::native(stream);
  if (x.dtype() == DType::f32) {
    cuda::convert_elements<<<blocks, cuda::element_threads, 0, native>>>(
        x.data<float>(), static_cast<__nv_bfloat16*>(y.raw()), fours, count);
  } else {
    cuda::convert_elements<<<blocks, cuda::element_threads, 0, native>>>(
        static_cast<const __nv_bfloat16*>(x.raw()), y.data<float>(), fours, count);
  }
  cuda::check_launch("convert");
}

}  // namespace polymoe::detail
