// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe::cpu {

/// The element-wise part of attention on one tile of scores [rows, columns], dense. Row r sees the
/// first `visible + r` columns, where that is negative none, where it is more all.
template <class T>
struct ScoreTile {
  std::int64_t rows, columns, visible;
  T scale;    // of the scores: 1 / sqrt(head_dim)
  T* scores;  // the products q k^T, without the scale
};

/// Sums of a row's softmax over the tiles so far: its probabilities are
/// exp(score - maximum) / sum, and `out` holds sum * (probabilities v).
template <class T>
struct OnlineSoftmax {
  T* maximum;  // [rows]
  T* sum;      // [rows]
  T* out;      // [rows, head_dim], rows out_stride apart
  std::int64_t out_stride, head_dim;
};

/// scores = exp(scale * scores - maximum), 0 where not visible, after moving the row's maximum, and
/// its sum and `out` with it. On the `first` tile of a row nothing is read from `state`.
void softmax_tile(const ScoreTile<float>& tile, const OnlineSoftmax<float>& state, bool first);
void softmax_tile(const ScoreTile<double>& tile, const OnlineSoftmax<double>& state, bool first);

/// out /= sum; maximum becomes the logarithm of the sum of exponentials.
void finish_softmax(std::int64_t rows, const OnlineSoftmax<float>& state);
void finish_softmax(std::int64_t rows, const OnlineSoftmax<double>& state);

/// scores = probabilities p = exp(scale * scores - log_sum_exp);
/// d_probabilities = scale * p * (d_probabilities - output_dot), the gradient of the products.
void softmax_gradient_tile(const ScoreTile<float>& tile, const float* log_sum_exp,
                           const float* output_dots, float* d_probabilities);
void softmax_gradient_tile(const ScoreTile<double>& tile, const double* log_sum_exp,
                           const double* output_dots, double* d_probabilities);

/// sum of a_i b_i.
float dot(const float* a, const float* b, std::int64_t count);
double dot(const double* a, const double* b, std::int64_t count);

/// One query over all keys: a decoding step. Rows of k and v are `stride` apart.
template <class T>
struct SingleQuery {
  std::int64_t keys, stride, head_dim;
  T scale;
  const T* q;
  const T* k;
  const T* v;
  T* scores;  // [keys]  scratch
  T* out;     // [head_dim]
  T* log_sum_exp;
};
void attend(const SingleQuery<float>& query);
void attend(const SingleQuery<double>& query);

}  // namespace polymoe::cpu
