// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/rotary.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/real_dtype.h"

namespace polymoe::detail {
namespace {

// Sine and cosine are computed at a block's first position; each further position multiplies by
// exp(i theta^(-2i/d)) in f64. Within a block the error stays below 1e-14.
constexpr std::int64_t positions_per_block = 64;
constexpr std::int64_t pairs_per_block = 32;

struct Rotations {
  double cosine[pairs_per_block], sine[pairs_per_block];
};

// Pairs [first, first + count) of a head of `head_dim`, rotated by the angles at `position`.
Rotations rotations_at(double position, double theta, std::int64_t head_dim, std::int64_t first,
                       std::int64_t count) {
  Rotations result{};
  for (std::int64_t i = 0; i < count; ++i) {
    const double exponent = -2.0 * static_cast<double>(first + i) / static_cast<double>(head_dim);
    const double angle = position * std::pow(theta, exponent);
    result.cosine[i] = std::cos(angle);
    result.sine[i] = std::sin(angle);
  }
  return result;
}

void advance(Rotations& at, const Rotations& step) {
#pragma omp simd
  for (std::int64_t i = 0; i < pairs_per_block; ++i) {
    const double cosine = at.cosine[i] * step.cosine[i] - at.sine[i] * step.sine[i];
    at.sine[i] = at.sine[i] * step.cosine[i] + at.cosine[i] * step.sine[i];
    at.cosine[i] = cosine;
  }
}

template <class T>
void rotate_heads(const Rotations& at, T sign, std::int64_t heads, std::int64_t head_dim,
                  std::int64_t first, std::int64_t count, T* row) {
  T cosine[pairs_per_block], sine[pairs_per_block];
  for (std::int64_t i = 0; i < count; ++i) {
    cosine[i] = static_cast<T>(at.cosine[i]);
    sine[i] = sign * static_cast<T>(at.sine[i]);
  }
  for (std::int64_t head = 0; head < heads; ++head) {
    T* low = row + head * head_dim + first;
    T* high = low + head_dim / 2;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const T a = low[i], b = high[i];
      low[i] = a * cosine[i] - b * sine[i];
      high[i] = b * cosine[i] + a * sine[i];
    }
  }
}

template <class T>
void rotate(const RotaryPositions& positions, T sign, const Tensor& x) {
  const std::int64_t rows = x.dim(0), heads = x.dim(1), head_dim = x.dim(2);
  const std::int64_t length = positions.sequence_length;
  const std::int64_t blocks = (length + positions_per_block - 1) / positions_per_block;
  const std::int64_t sequences = (rows + length - 1) / length;
  T* data = x.data<T>();
#pragma omp parallel for collapse(2) schedule(static)
  for (std::int64_t sequence = 0; sequence < sequences; ++sequence) {
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t start = sequence * length;
      const std::int64_t begin = start + block * positions_per_block;
      const std::int64_t end = std::min({begin + positions_per_block, start + length, rows});
      const auto position =
          static_cast<double>(positions.first_position + block * positions_per_block);
      for (std::int64_t first = 0; first < head_dim / 2; first += pairs_per_block) {
        const std::int64_t count = std::min(pairs_per_block, head_dim / 2 - first);
        Rotations at = rotations_at(position, positions.theta, head_dim, first, count);
        const Rotations step = rotations_at(1.0, positions.theta, head_dim, first, count);
        for (std::int64_t row = begin; row < end; ++row) {
          rotate_heads(at, sign, heads, head_dim, first, count, data + row * heads * head_dim);
          advance(at, step);
        }
      }
    }
  }
}

}  // namespace

void rotary(CpuBackend, const RotaryPositions& positions, bool inverse, Tensor x, Stream&) {
  cpu::with_real(x.dtype(), [&]<class T>(T) { rotate(positions, inverse ? T{-1} : T{1}, x); });
}

}  // namespace polymoe::detail
