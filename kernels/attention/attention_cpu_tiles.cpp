// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_cpu_tiles.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/cpu/real_dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/attention_cpu_tiles.cpp"
#include <hwy/foreach_target.h>
//
#include "kernels/cpu/softmax-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void scale_row(T factor, T* x, std::int64_t count) {
  const hn::ScalableTag<T> d;
  const auto scale = hn::Set(d, factor);
  for (std::int64_t i = 0; i < count; i += lanes(d)) {
    store(hn::Mul(load(d, x + i, count - i), scale), d, x + i, count - i);
  }
}

template <class T>
std::int64_t visible_columns(const ScoreTile<T>& tile, std::int64_t row) {
  return std::clamp<std::int64_t>(tile.visible + row, 0, tile.columns);
}

template <class T>
void softmax_rows(const ScoreTile<T>& tile, const OnlineSoftmax<T>& state, bool first) {
  for (std::int64_t row = 0; row < tile.rows; ++row) {
    T* scores = tile.scores + row * tile.columns;
    const std::int64_t visible = visible_columns(tile, row);
    std::fill(scores + visible, scores + tile.columns, T{0});
    if (visible == 0) continue;
    T maximum = maximum_of(scores, visible) * tile.scale;
    T carried = 0;
    if (!first) {
      const T previous = state.maximum[row];
      maximum = std::max(maximum, previous);
      carried = state.sum[row];
      if (maximum > previous) {
        const T factor = std::exp(previous - maximum);
        carried *= factor;
        scale_row(factor, state.out + row * state.out_stride, state.head_dim);
      }
    }
    state.maximum[row] = maximum;
    state.sum[row] = carried + exponentials(tile.scale, maximum, scores, visible);
  }
}

template <class T>
void finish_rows(std::int64_t rows, const OnlineSoftmax<T>& state) {
  for (std::int64_t row = 0; row < rows; ++row) {
    scale_row(T{1} / state.sum[row], state.out + row * state.out_stride, state.head_dim);
    state.maximum[row] += std::log(state.sum[row]);
  }
}

template <class T>
void gradient_rows(const ScoreTile<T>& tile, const T* log_sum_exp, const T* output_dots,
                   T* d_probabilities) {
  const hn::ScalableTag<T> d;
  const auto scale = hn::Set(d, tile.scale);
  for (std::int64_t row = 0; row < tile.rows; ++row) {
    T* scores = tile.scores + row * tile.columns;
    T* gradients = d_probabilities + row * tile.columns;
    const std::int64_t visible = visible_columns(tile, row);
    const auto shift = hn::Set(d, log_sum_exp[row]), dot = hn::Set(d, output_dots[row]);
    for (std::int64_t i = 0; i < visible; i += lanes(d)) {
      const std::int64_t left = visible - i;
      const auto p = exponential(d, hn::MulSub(load(d, scores + i, left), scale, shift));
      const auto g = hn::Sub(load(d, gradients + i, left), dot);
      store(p, d, scores + i, left);
      store(hn::Mul(hn::Mul(p, scale), g), d, gradients + i, left);
    }
    std::fill(scores + visible, scores + tile.columns, T{0});
    std::fill(gradients + visible, gradients + tile.columns, T{0});
  }
}

template <class T>
T dot_product(const T* a, const T* b, std::int64_t count) {
  const hn::ScalableTag<T> d;
  auto sum = hn::Zero(d);
  for (std::int64_t i = 0; i < count; i += lanes(d)) {
    sum = hn::MulAdd(load(d, a + i, count - i), load(d, b + i, count - i), sum);
  }
  return sum_of_lanes(d, sum);
}

template <class T>
void attend_query(const SingleQuery<T>& a) {
  const hn::ScalableTag<T> d;
  for (std::int64_t j = 0; j < a.keys; ++j) {
    a.scores[j] = dot_product(a.q, a.k + j * a.stride, a.head_dim);
  }
  const T maximum = maximum_of(a.scores, a.keys) * a.scale;
  const T sum = exponentials(a.scale, maximum, a.scores, a.keys);
  std::fill(a.out, a.out + a.head_dim, T{0});
  for (std::int64_t j = 0; j < a.keys; ++j) {
    const auto p = hn::Set(d, a.scores[j]);
    const T* v = a.v + j * a.stride;
    for (std::int64_t i = 0; i < a.head_dim; i += lanes(d)) {
      const std::int64_t left = a.head_dim - i;
      store(hn::MulAdd(p, load(d, v + i, left), load(d, a.out + i, left)), d, a.out + i, left);
    }
  }
  scale_row(T{1} / sum, a.out, a.head_dim);
  *a.log_sum_exp = maximum + std::log(sum);
}

POLYMOE_REAL_VERSIONS(softmax, softmax_rows);
POLYMOE_REAL_VERSIONS(finish, finish_rows);
POLYMOE_REAL_VERSIONS(gradient, gradient_rows);
POLYMOE_REAL_VERSIONS(dot_version, dot_product);
POLYMOE_REAL_VERSIONS(attend_version, attend_query);

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {

namespace {

POLYMOE_DISPATCH_REAL(softmax)
POLYMOE_DISPATCH_REAL(finish)
POLYMOE_DISPATCH_REAL(gradient)
POLYMOE_DISPATCH_REAL(dot_version)
POLYMOE_DISPATCH_REAL(attend_version)

}  // namespace

template <class T>
void softmax_tile(const ScoreTile<T>& tile, const OnlineSoftmax<T>& state, bool first) {
  softmax<T>(tile, state, first);
}
template <class T>
void finish_softmax(std::int64_t rows, const OnlineSoftmax<T>& state) {
  finish<T>(rows, state);
}
template <class T>
void softmax_gradient_tile(const ScoreTile<T>& tile, const T* log_sum_exp, const T* output_dots,
                           T* d_probabilities) {
  gradient<T>(tile, log_sum_exp, output_dots, d_probabilities);
}
template <class T>
T dot(const T* a, const T* b, std::int64_t count) {
  return dot_version<T>(a, b, count);
}
template <class T>
void attend(const SingleQuery<T>& query) {
  attend_version<T>(query);
}

#define POLYMOE_INSTANTIATE(T)                                                      \
  template void softmax_tile(const ScoreTile<T>&, const OnlineSoftmax<T>&, bool);   \
  template void finish_softmax(std::int64_t, const OnlineSoftmax<T>&);              \
  template void softmax_gradient_tile(const ScoreTile<T>&, const T*, const T*, T*); \
  template T dot(const T*, const T*, std::int64_t);                                 \
  template void attend(const SingleQuery<T>&)
POLYMOE_INSTANTIATE(float);
POLYMOE_INSTANTIATE(double);
#undef POLYMOE_INSTANTIATE

}  // namespace polymoe::cpu
#endif
