// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "parallel/communication/communicator.h"
#include "parallel/parameters/parameter_store.h"

namespace polymoe {

/// Sums gradients over ranks, bucket by bucket, while the backward pass still runs.
class GradientReducer {
 public:
  explicit GradientReducer(ParameterStore& store);

  /// The segment's gradients are complete on this rank: starts the reduce-scatter of its buckets.
  /// Each segment once a step, the same order on every rank. Throws InvalidArgument on a segment
  /// that does not exist or was started already.
  void start(int segment, Stream& stream);
  /// Returns when every started bucket is reduced: the owned slices then hold the sums.
  /// Throws InvalidArgument if a segment was never started.
  void finish(Stream& stream);

 private:
  ParameterStore& store_;
  std::vector<Pending> pending_;
  std::vector<bool> started_;  // per segment
};

}  // namespace polymoe
