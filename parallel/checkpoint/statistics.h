// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/reader.h"

namespace polymoe {

/// Calls `visit` with the elements of a stored tensor in order, a bounded part at a time: a CPU
/// tensor [count] of the stored dtype, valid during the call. Throws InputFileError.
void stream_tensor(const CheckpointReader& checkpoint,
                   const CheckpointManifest::StoredTensor& tensor,
                   const std::function<void(const Tensor& part)>& visit);

/// The elements of a part as doubles.
void to_doubles(const Tensor& part, std::vector<double>& values);

/// What the elements of a tensor are like.
struct TensorStatistics {
  double norm = 0.0;            // sqrt(sum of squares) of the finite elements
  double largest = 0.0;         // absolute value of a finite element
  std::int64_t not_finite = 0;  // NaN and infinite elements
};

/// Streams one tensor of a checkpoint. Throws InputFileError.
TensorStatistics statistics_of(const CheckpointReader& checkpoint,
                               const CheckpointManifest::StoredTensor& tensor);

}  // namespace polymoe
