// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw/adamw_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/adamw/adamw.h"
#include "kernels/adamw/adamw_backends.h"
#include "kernels/backend.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/adamw/adamw_cpu.cpp"
#include <hwy/foreach_target.h>
//
#include "kernels/cpu/bf16_vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

template <class T, class Moment>
void update(const AdamWRange<T, Moment>& a, std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<T> d;
  const AdamWStep& s = a.step;
  // 1 - beta^step without cancellation where beta is near 1.
  const auto steps = static_cast<double>(s.step);
  const double correction1 = -std::expm1(steps * std::log(s.beta1));
  const double correction2 = -std::expm1(steps * std::log(s.beta2));
  const auto set = [d](double value) HWY_ATTR { return hn::Set(d, static_cast<T>(value)); };
  const auto scale = set(s.gradient_scale);
  const auto beta1 = set(s.beta1), rest1 = set(1.0 - s.beta1);
  const auto beta2 = set(s.beta2), rest2 = set(1.0 - s.beta2);
  const auto rate = set(s.learning_rate / correction1);
  const auto root_scale = set(1.0 / std::sqrt(correction2));
  const auto epsilon = set(s.epsilon);
  const auto decay = set(s.learning_rate * s.weight_decay);
  const auto& [first, second] = a.state;
  for (std::int64_t i = begin; i < end; i += lanes(d)) {
    const std::int64_t left = end - i;
    const auto g = hn::Mul(scale, load(d, a.gradient + i, left));
    const auto m = hn::MulAdd(rest1, g, hn::Mul(beta1, load(d, first + i, left)));
    const auto v = hn::MulAdd(hn::Mul(rest2, g), g, hn::Mul(beta2, load(d, second + i, left)));
    const auto p = load(d, a.parameter + i, left);
    const auto denominator = hn::MulAdd(hn::Sqrt(v), root_scale, epsilon);
    const auto change = hn::MulAdd(decay, p, hn::Div(hn::Mul(rate, m), denominator));
    store(m, d, first + i, left);
    store(v, d, second + i, left);
    const auto updated = hn::Sub(p, change);
    store(updated, d, a.parameter + i, left);
    if constexpr (std::is_same_v<T, float>) {
      if (a.rounded != nullptr) store(updated, d, a.rounded + i, left);
    }
  }
}

constexpr auto& update_f32 = update<float, float>;
constexpr auto& update_f32_bf16 = update<float, std::uint16_t>;
constexpr auto& update_f64 = update<double, double>;

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {
namespace {

HWY_EXPORT(update_f32);
HWY_EXPORT(update_f32_bf16);
HWY_EXPORT(update_f64);

template <class T, class Moment>
void update(const AdamWRange<T, Moment>& a, std::int64_t begin, std::int64_t end) {
  if constexpr (std::is_same_v<T, double>) {
    HWY_DYNAMIC_DISPATCH(update_f64)(a, begin, end);
  } else if constexpr (std::is_same_v<Moment, float>) {
    HWY_DYNAMIC_DISPATCH(update_f32)(a, begin, end);
  } else {
    HWY_DYNAMIC_DISPATCH(update_f32_bf16)(a, begin, end);
  }
}

constexpr std::int64_t elements_per_task = 16384;

template <class T, class Moment>
void update_all(const AdamWRange<T, Moment>& range, std::int64_t count) {
#pragma omp parallel for schedule(static)
  for (std::int64_t begin = 0; begin < count; begin += elements_per_task) {
    update(range, begin, std::min(begin + elements_per_task, count));
  }
}

}  // namespace
}  // namespace polymoe::cpu

namespace polymoe::detail {

void adamw(CpuBackend, const AdamWStep& step, const Tensor& gradient, Tensor parameter,
           const OptimizerState& state, Tensor rounded, Stream&) {
  const auto run = [&]<class T, class Moment>(T, Moment) {
    cpu::AdamWRange<T, Moment> range{.step = step,
                                     .gradient = gradient.data<T>(),
                                     .parameter = parameter.data<T>(),
                                     .state = {},
                                     .rounded = static_cast<std::uint16_t*>(rounded.raw())};
    std::transform(state.begin(), state.end(), range.state.begin(),
                   [](const Tensor& tensor) { return static_cast<Moment*>(tensor.raw()); });
    cpu::update_all(range, parameter.elements());
  };
  if (parameter.dtype() == DType::f64) {
    run(double{}, double{});
  } else if (state[0].dtype() == DType::bf16) {
    run(float{}, std::uint16_t{});
  } else {
    run(float{}, float{});
  }
}

}  // namespace polymoe::detail
#endif
