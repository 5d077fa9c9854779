// SPDX-License-Identifier: Apache-2.0
#include "kernels/random_normal/random_normal_backends.h"

#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

/// Box-Muller, as RandomStream::normal.
__device__ double normal_of(std::uint64_t key, std::uint64_t counter_high, std::uint64_t index) {
  const auto bits = philox(key, counter_high, index);
  const double radius = sqrt(-2.0 * log(1.0 - uniform_of(bits[0], bits[1])));
  return radius * cospi(2.0 * uniform_of(bits[2], bits[3]));
}

template <class T>
__global__ void __launch_bounds__(element_threads)
    draw_kernel(std::uint64_t key, std::uint64_t counter_high,
                const __grid_constant__ NormalDraw draw, T* y, std::int64_t count) {
  for (std::int64_t i = first_element(); i < count; i += element_stride()) {
    const auto index = static_cast<std::uint64_t>(draw.first + i);
    std::uint64_t high = counter_high;
    double z = normal_of(key, high, index);
    while (draw.truncation > 0.0 && fabs(z) > draw.truncation) {
      z = normal_of(key, high += RandomStream::redraw, index);
    }
    y[i] = from_float<T>(static_cast<float>(draw.scale * z));
  }
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void random_normal(CudaBackend, const RandomStream& random, const NormalDraw& draw, Tensor y,
                   Stream& stream) {
  const std::int64_t count = y.elements();
  if (count == 0) return;
  cuda::with_real(y.dtype(), [&]<class T>(T) {
    cuda::draw_kernel<T>
        <<<cuda::element_blocks(count), cuda::element_threads, 0, cuda::native(stream)>>>(
            random.key(), random.counter_high(), draw, static_cast<T*>(y.raw()), count);
  });
  cuda::check_launch("random_normal");
}

}  // namespace polymoe::detail
