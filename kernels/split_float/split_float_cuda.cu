// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device/split_float.cuh"

#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/split_float/split_float_backends.h"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

__global__ void __launch_bounds__(element_threads)
    split_elements(const float* x, SplitValues values, std::int64_t fours, std::int64_t count) {
  for (std::int64_t i = first_element(); i < fours; i += element_stride()) {
    float four[4];
    load_four(x + 4 * i, four);
    values.store_four(4 * i, four);
  }
  for (std::int64_t i = 4 * fours + first_element(); i < count; i += element_stride()) {
    values.store(i, x[i]);
  }
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void split_floats(CudaBackend, const Tensor& x, Tensor high, Tensor low, Stream& stream) {
  const std::int64_t count = x.elements();
  const cuda::SplitValues values{static_cast<std::uint16_t*>(high.raw()),
                                 static_cast<std::uint16_t*>(low.raw())};
  const bool aligned = cuda::in_vectors<float>(4, {x.raw(), high.raw(), low.raw()});
  cuda::split_elements<<<cuda::element_blocks(count, 4), cuda::element_threads, 0,
                         cuda::native(stream)>>>(x.data<float>(), values, aligned ? count / 4 : 0,
                                                 count);
  cuda::check_launch("split_floats");
}

}  // namespace polymoe::detail
