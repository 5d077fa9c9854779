// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/rotary/rotary.h"

namespace polymoe::cpu {

/// Cosines and sines of neighbouring pairs of a head, for one row after another. They are computed
/// at every 32nd position; from there each further one multiplies by exp(i theta^(-2i/d)) in f64,
/// which leaves errors below 1e-14. So they depend on the position alone, not on where a walk
/// begins.
template <class T>
class RotaryPairs {
 public:
  static constexpr std::int64_t max_pairs = 128;

  /// Holds the rotations of pairs [first_pair, first_pair + count()) at `row`.
  RotaryPairs(const RotaryPositions& positions, bool inverse, std::int64_t head_dim,
              std::int64_t first_pair, std::int64_t row)
      : sequence_length_(positions.sequence_length),
        first_position_(positions.first_position),
        starts_(positions.document_starts.defined() ? positions.document_starts.data<std::int32_t>()
                                                    : nullptr),
        rows_(starts_ == nullptr ? 0 : positions.document_starts.elements()),
        sign_(inverse ? T{-1} : T{1}),
        count_(std::min(max_pairs, head_dim / 2 - first_pair)),
        row_(row) {
    for (std::int64_t i = 0; i < count_; ++i) {
      const double exponent =
          -2.0 * static_cast<double>(first_pair + i) / static_cast<double>(head_dim);
      frequency_[i] = std::pow(positions.theta, exponent);
      step_cosine_[i] = std::cos(frequency_[i]);
      step_sine_[i] = std::sin(frequency_[i]);
    }
    start();
  }

  std::int64_t count() const { return count_; }
  const T* cosines() const { return cosine_; }
  const T* sines() const { return sine_; }

  void next_row() {
    ++row_;
    ++position_;
    if (starts_ != nullptr && row_ >= rows_) return;  // a walk ends behind the last row
    if (row_ % sequence_length_ == 0 || position_ % computed_every == 0) return start();
    if (starts_ != nullptr && starts_[row_] != start_) return start();
    advance();
    round();
  }

 private:
  static constexpr std::int64_t computed_every = 32;

  void start() {
    if (starts_ != nullptr) start_ = starts_[row_];
    position_ = first_position_ + row_ % sequence_length_ - (start_ == no_document ? 0 : start_);
    const std::int64_t steps = position_ % computed_every;
    const auto computed = static_cast<double>(position_ - steps);
    for (std::int64_t i = 0; i < count_; ++i) {
      wide_cosine_[i] = std::cos(computed * frequency_[i]);
      wide_sine_[i] = std::sin(computed * frequency_[i]);
    }
    for (std::int64_t step = 0; step < steps; ++step) advance();
    round();
  }
  void advance() {
#pragma omp simd
    for (std::int64_t i = 0; i < count_; ++i) {
      const double cosine = wide_cosine_[i] * step_cosine_[i] - wide_sine_[i] * step_sine_[i];
      wide_sine_[i] = wide_sine_[i] * step_cosine_[i] + wide_cosine_[i] * step_sine_[i];
      wide_cosine_[i] = cosine;
    }
  }
  void round() {
    for (std::int64_t i = 0; i < count_; ++i) {
      cosine_[i] = static_cast<T>(wide_cosine_[i]);
      sine_[i] = sign_ * static_cast<T>(wide_sine_[i]);
    }
  }

  std::int64_t sequence_length_, first_position_;
  const std::int32_t* starts_;  // of documents, or null
  std::int64_t rows_;           // that have one
  std::int32_t start_ = 0;
  T sign_;
  std::int64_t count_, row_, position_ = 0;
  // The first count() elements of each are used.
  double frequency_[max_pairs], step_cosine_[max_pairs], step_sine_[max_pairs];
  double wide_cosine_[max_pairs], wide_sine_[max_pairs];
  T cosine_[max_pairs], sine_[max_pairs];
};

}  // namespace polymoe::cpu
