// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "parallel/checkpoint/reader.h"

namespace polymoe {

/// How far two tensors of one shape and dtype are apart.
struct TensorDifference {
  bool same_bits = true;
  std::int64_t differing = 0;  // elements with other bits
  /// ||a - b|| / max(||a||, ||b||), Euclidean norms; 0 with equal bits, NaN where an element with
  /// other bits is not finite.
  double relative = 0.0;
  double largest = 0.0;  // |a_i - b_i|; NaN as above
};

/// Streams the tensor `name` of both. Throws InputFileError where one does not have it, or the
/// shapes or dtypes differ.
TensorDifference difference_of(const CheckpointReader& a, const CheckpointReader& b,
                               const std::string& name);

}  // namespace polymoe
