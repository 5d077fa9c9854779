// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "kernels/rotary/rotary.h"

namespace polymoe::cuda {

/// The rotations of a head's pairs at each row's position. A kernel parameter.
///
/// Formed in the kernels that use them, once per row and pair: some 40 operations in f64, of which
/// an H100 does those of 16384 rows of 64 pairs in 3 us, beneath the loads of the same rows. A
/// table made by a kernel of its own would cost its launch alone as much.
class RotaryAngles {
 public:
  RotaryAngles(const RotaryPositions& positions, std::int64_t pairs, bool inverse)
      : sequence_length_(positions.sequence_length),
        first_position_(positions.first_position),
        starts_(static_cast<const std::int32_t*>(positions.document_starts.raw())),
        rows_(positions.document_starts.defined() ? positions.document_starts.elements() : 0),
        log2_step_(std::log2(positions.theta) / static_cast<double>(pairs)),
        sign_(inverse ? -1.0F : 1.0F) {}

  /// Cosine and sine of the angle of pair `pair` at `row`, which may lie beyond the last one.
  __device__ float2 operator()(std::int64_t row, int pair) const {
    constexpr double turns_per_radian = 0.159154943091895335769;
    std::int64_t position = first_position_ + row % sequence_length_;
    if (row < rows_ && starts_[row] != no_document) position -= starts_[row];
    const double turns =
        static_cast<double>(position) * (exp2(-log2_step_ * pair) * turns_per_radian);
    // Whole turns are taken off in f64; what is left is small enough for f32.
    float2 rotation;
    sincospif(2.0F * static_cast<float>(turns - rint(turns)), &rotation.y, &rotation.x);
    rotation.y *= sign_;
    return rotation;
  }

 private:
  std::int64_t sequence_length_, first_position_;
  const std::int32_t* starts_;  // of documents, or null
  std::int64_t rows_;           // that have one
  double log2_step_;
  float sign_;
};

}  // namespace polymoe::cuda
