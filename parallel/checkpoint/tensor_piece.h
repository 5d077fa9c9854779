// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "parallel/checkpoint/held_values.h"
#include "runtime/tensor.h"

namespace polymoe {

/// A flat range of a logical tensor and the memory that holds it on this rank: on the CPU, or on
/// the GPU of the stream that comes with it. A checkpoint stores bf16 as f32, other dtypes as they
/// are.
struct TensorPiece {
  std::string name;        // of the logical tensor: "moment1/layers.3.experts.17.up.weight"
  Shape shape;             // of the logical tensor
  std::int64_t begin = 0;  // first element, flat
  Tensor data;             // any shape; data.elements() elements from `begin` on
  Tensor low = {};         // beside bf16 data where they are f32 values, see HeldValues

  HeldValues held() const { return {data, low}; }
};

}  // namespace polymoe
