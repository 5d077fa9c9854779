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
// join_float and split_float of runtime/float16.h, of the first min(count, lanes) values.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const SplitValues& p, std::int64_t count) {
  const hn::RebindToUnsigned<D> wide;
  const auto high = load_halves(wide, p.high, count), low = load_halves(wide, p.low, count);
  const auto nan = hn::Gt(hn::And(high, hn::Set(wide, 0x7fffu)), hn::Set(wide, 0x7f80u));
  const auto carry = hn::IfThenZeroElse(nan, hn::ShiftRight<15>(low));
  return hn::BitCast(d, hn::Or(hn::ShiftLeft<16>(hn::Sub(high, carry)), low));
}
template <class D>
HWY_INLINE void store(hn::Vec<D> v, D, const SplitValues& p, std::int64_t count) {
  const hn::RebindToUnsigned<D> wide;
  const auto bits = hn::BitCast(wide, v);
  const auto nearest = hn::ShiftRight<16>(hn::Add(bits, hn::Set(wide, 0x8000u)));
  const auto upper = hn::ShiftRight<16>(bits);
  const auto infinity = hn::Eq(hn::And(upper, hn::Set(wide, 0x7fu)), hn::Zero(wide));
  const auto quiet = hn::IfThenElse(infinity, hn::Or(upper, hn::Set(wide, 0x40u)), upper);
  store_halves(hn::IfThenElse(hn::RebindMask(wide, hn::IsNaN(v)), quiet, nearest), wide, p.high,
               count);
  store_halves(hn::And(bits, hn::Set(wide, 0xffffu)), wide, p.low, count);
}

namespace {

template <class T, class Moment, class Values>
void update(const AdamWRange<T, Moment, Values>& a, std::int64_t begin, std::int64_t end) {
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
    store(hn::Sub(p, change), d, a.parameter + i, left);
  }
}

constexpr auto& update_f32 = update<float, float, float*>;
constexpr auto& update_f32_bf16 = update<float, std::uint16_t, float*>;
constexpr auto& update_split = update<float, float, SplitValues>;
constexpr auto& update_split_bf16 = update<float, std::uint16_t, SplitValues>;
constexpr auto& update_f64 = update<double, double, double*>;

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {
namespace {

HWY_EXPORT(update_f32);
HWY_EXPORT(update_f32_bf16);
HWY_EXPORT(update_split);
HWY_EXPORT(update_split_bf16);
HWY_EXPORT(update_f64);

template <class T, class Moment, class Values>
void update(const AdamWRange<T, Moment, Values>& a, std::int64_t begin, std::int64_t end) {
  if constexpr (std::is_same_v<T, double>) {
    HWY_DYNAMIC_DISPATCH(update_f64)(a, begin, end);
  } else if constexpr (std::is_same_v<Values, SplitValues>) {
    if constexpr (std::is_same_v<Moment, float>) {
      HWY_DYNAMIC_DISPATCH(update_split)(a, begin, end);
    } else {
      HWY_DYNAMIC_DISPATCH(update_split_bf16)(a, begin, end);
    }
  } else if constexpr (std::is_same_v<Moment, float>) {
    HWY_DYNAMIC_DISPATCH(update_f32)(a, begin, end);
  } else {
    HWY_DYNAMIC_DISPATCH(update_f32_bf16)(a, begin, end);
  }
}

constexpr std::int64_t elements_per_task = 16384;

template <class T, class Moment, class Values>
void update_all(const AdamWRange<T, Moment, Values>& range, std::int64_t count) {
#pragma omp parallel for schedule(static)
  for (std::int64_t begin = 0; begin < count; begin += elements_per_task) {
    update(range, begin, std::min(begin + elements_per_task, count));
  }
}

}  // namespace
}  // namespace polymoe::cpu

namespace polymoe::detail {

void adamw(CpuBackend, const AdamWStep& step, const Tensor& gradient, Tensor parameter,
           const OptimizerState& state, Tensor low, Stream&) {
  const auto run = [&]<class T, class Moment, class Values>(T, Moment, Values values) {
    cpu::AdamWRange<T, Moment, Values> range{
        .step = step, .gradient = gradient.data<T>(), .parameter = values, .state = {}};
    std::transform(state.begin(), state.end(), range.state.begin(),
                   [](const Tensor& tensor) { return static_cast<Moment*>(tensor.raw()); });
    cpu::update_all(range, parameter.elements());
  };
  const auto run_in_f32 = [&](auto values) {
    if (state[0].dtype() == DType::bf16) {
      run(float{}, std::uint16_t{}, values);
    } else {
      run(float{}, float{}, values);
    }
  };
  if (parameter.dtype() == DType::f64) {
    run(double{}, double{}, parameter.data<double>());
  } else if (low.defined()) {
    run_in_f32(cpu::SplitValues{static_cast<std::uint16_t*>(parameter.raw()),
                                static_cast<std::uint16_t*>(low.raw())});
  } else {
    run_in_f32(parameter.data<float>());
  }
}

}  // namespace polymoe::detail
#endif
