// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_cpu_tiles.h"

#include <algorithm>
#include <cmath>

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

void softmax_f32(const ScoreTile<float>& tile, const OnlineSoftmax<float>& state, bool first) {
  softmax_rows(tile, state, first);
}
void softmax_f64(const ScoreTile<double>& tile, const OnlineSoftmax<double>& state, bool first) {
  softmax_rows(tile, state, first);
}
void finish_f32(std::int64_t rows, const OnlineSoftmax<float>& state) { finish_rows(rows, state); }
void finish_f64(std::int64_t rows, const OnlineSoftmax<double>& state) { finish_rows(rows, state); }
void gradient_f32(const ScoreTile<float>& tile, const float* log_sum_exp, const float* output_dots,
                  float* d_probabilities) {
  gradient_rows(tile, log_sum_exp, output_dots, d_probabilities);
}
void gradient_f64(const ScoreTile<double>& tile, const double* log_sum_exp,
                  const double* output_dots, double* d_probabilities) {
  gradient_rows(tile, log_sum_exp, output_dots, d_probabilities);
}
float dot_f32(const float* a, const float* b, std::int64_t count) {
  return dot_product(a, b, count);
}
double dot_f64(const double* a, const double* b, std::int64_t count) {
  return dot_product(a, b, count);
}
void attend_f32(const SingleQuery<float>& query) { attend_query(query); }
void attend_f64(const SingleQuery<double>& query) { attend_query(query); }

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {

HWY_EXPORT(softmax_f32);
HWY_EXPORT(softmax_f64);
HWY_EXPORT(finish_f32);
HWY_EXPORT(finish_f64);
HWY_EXPORT(gradient_f32);
HWY_EXPORT(gradient_f64);
HWY_EXPORT(dot_f32);
HWY_EXPORT(dot_f64);
HWY_EXPORT(attend_f32);
HWY_EXPORT(attend_f64);

void softmax_tile(const ScoreTile<float>& tile, const OnlineSoftmax<float>& state, bool first) {
  HWY_DYNAMIC_DISPATCH(softmax_f32)(tile, state, first);
}
void softmax_tile(const ScoreTile<double>& tile, const OnlineSoftmax<double>& state, bool first) {
  HWY_DYNAMIC_DISPATCH(softmax_f64)(tile, state, first);
}
void finish_softmax(std::int64_t rows, const OnlineSoftmax<float>& state) {
  HWY_DYNAMIC_DISPATCH(finish_f32)(rows, state);
}
void finish_softmax(std::int64_t rows, const OnlineSoftmax<double>& state) {
  HWY_DYNAMIC_DISPATCH(finish_f64)(rows, state);
}
void softmax_gradient_tile(const ScoreTile<float>& tile, const float* log_sum_exp,
                           const float* output_dots, float* d_probabilities) {
  HWY_DYNAMIC_DISPATCH(gradient_f32)(tile, log_sum_exp, output_dots, d_probabilities);
}
void softmax_gradient_tile(const ScoreTile<double>& tile, const double* log_sum_exp,
                           const double* output_dots, double* d_probabilities) {
  HWY_DYNAMIC_DISPATCH(gradient_f64)(tile, log_sum_exp, output_dots, d_probabilities);
}
float dot(const float* a, const float* b, std::int64_t count) {
  return HWY_DYNAMIC_DISPATCH(dot_f32)(a, b, count);
}
double dot(const double* a, const double* b, std::int64_t count) {
  return HWY_DYNAMIC_DISPATCH(dot_f64)(a, b, count);
}
void attend(const SingleQuery<float>& query) { HWY_DYNAMIC_DISPATCH(attend_f32)(query); }
void attend(const SingleQuery<double>& query) { HWY_DYNAMIC_DISPATCH(attend_f64)(query); }

}  // namespace polymoe::cpu
#endif
