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
template <class T>
void softmax_tile(const ScoreTile<T>& tile, const OnlineSoftmax<T>& state, bool first);

/// out /= sum; maximum becomes the logarithm of the sum of exponentials.
template <class T>
void finish_softmax(std::int64_t rows, const OnlineSoftmax<T>& state);

/// scores = probabilities p = exp(scale * scores - log_sum_exp);
/// d_probabilities = scale * p * (d_probabilities - output_dot), the gradient of the products.
template <class T>
void softmax_gradient_tile(const ScoreTile<T>& tile, const T* log_sum_exp, const T* output_dots,
                           T* d_probabilities);

/// sum of a_i b_i.
template <class T>
T dot(const T* a, const T* b, std::int64_t count);

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
template <class T>
void attend(const SingleQuery<T>& query);

}  // namespace polymoe::cpu
