// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw/adamw_backends.h"

#include <cmath>

#include "kernels/cuda/device/split_float.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

struct Constants {
  float scale, beta1, rest1, beta2, rest2, rate, root_scale, epsilon, decay;
};

Constants constants_of(const AdamWStep& s) {
  // 1 - beta^step without cancellation where beta is near 1.
  const auto steps = static_cast<double>(s.step);
  const double correction1 = -std::expm1(steps * std::log(s.beta1));
  const double correction2 = -std::expm1(steps * std::log(s.beta2));
  const auto f = [](double value) { return static_cast<float>(value); };
  return {f(s.gradient_scale),
          f(s.beta1),
          f(1.0 - s.beta1),
          f(s.beta2),
          f(1.0 - s.beta2),
          f(s.learning_rate / correction1),
          f(1.0 / std::sqrt(correction2)),
          f(s.epsilon),
          f(s.learning_rate * s.weight_decay)};
}

__device__ void update(const Constants& c, float gradient, float& p, float& m, float& v) {
  const float g = c.scale * gradient;
  m = fmaf(c.rest1, g, c.beta1 * m);
  v = fmaf(c.rest2 * g, g, c.beta2 * v);
  const float denominator = fmaf(sqrtf(v), c.root_scale, c.epsilon);
  p -= fmaf(c.decay, p, c.rate * m / denominator);
}

// As SplitValues has it.
struct WholeValues {
  float* values;

  __device__ float load(std::int64_t i) const { return values[i]; }
  __device__ void store(std::int64_t i, float value) const { values[i] = value; }
  __device__ void load_four(std::int64_t i, float (&four)[4]) const {
    cuda::load_four(values + i, four);
  }
  __device__ void store_four(std::int64_t i, const float (&four)[4]) const {
    cuda::store_four(values + i, four);
  }
};

template <class Gradient, class Moment, class Values>
__global__ void __launch_bounds__(element_threads)
    adamw_kernel(const __grid_constant__ Constants c, const Gradient* gradient, Values parameter,
                 Moment* m, Moment* v, std::int64_t fours, std::int64_t count) {
  for (std::int64_t i = first_element(); i < fours; i += element_stride()) {
    float gs[4], ps[4], ms[4], vs[4];
    load_four(gradient + 4 * i, gs);
    parameter.load_four(4 * i, ps);
    load_four(m + 4 * i, ms);
    load_four(v + 4 * i, vs);
#pragma unroll
    for (int j = 0; j < 4; ++j) update(c, gs[j], ps[j], ms[j], vs[j]);
    parameter.store_four(4 * i, ps);
    store_four(m + 4 * i, ms);
    store_four(v + 4 * i, vs);
  }
  for (std::int64_t i = 4 * fours + first_element(); i < count; i += element_stride()) {
    float updated = parameter.load(i), first = to_float(m[i]), second = to_float(v[i]);
    update(c, to_float(gradient[i]), updated, first, second);
    parameter.store(i, updated);
    m[i] = from_float<Moment>(first);
    v[i] = from_float<Moment>(second);
  }
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void adamw(CudaBackend, const AdamWStep& step, const Tensor& gradient, Tensor parameter,
           const OptimizerState& state, Tensor low, Stream& stream) {
  const Tensor &m = state[0], &v = state[1];
  const std::int64_t count = parameter.elements();
  if (count == 0) return;
  const bool aligned =
      cuda::in_vectors<float>(4, {gradient.raw(), parameter.raw(), m.raw(), v.raw(), low.raw()});
  const auto run = [&](auto values) {
    cuda::with_real(gradient.dtype(), [&]<class Gradient>(Gradient) {
      cuda::with_real(m.dtype(), [&]<class Moment>(Moment) {
        cuda::adamw_kernel<Gradient, Moment>
            <<<cuda::element_blocks(count, 4), cuda::element_threads, 0, cuda::native(stream)>>>(
                cuda::constants_of(step), static_cast<const Gradient*>(gradient.raw()), values,
                static_cast<Moment*>(m.raw()), static_cast<Moment*>(v.raw()),
                aligned ? count / 4 : 0, count);
      });
    });
  };
  if (low.defined()) {
    run(cuda::SplitValues{static_cast<std::uint16_t*>(parameter.raw()),
                          static_cast<std::uint16_t*>(low.raw())});
  } else {
    run(cuda::WholeValues{parameter.data<float>()});
  }
  cuda::check_launch("adamw");
}

}  // namespace polymoe::detail
