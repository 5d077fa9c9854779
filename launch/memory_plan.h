// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "launch/config.h"
#include "parallel/checkpoint.h"

namespace polymoe {

/// What a training run needs, in numbers.
struct MemoryPlan {
  // Over all ranks, each parameter once.
  std::int64_t total_parameters = 0;
  std::int64_t active_parameters = 0;  // that take part in one token's prediction

  // Bytes on one rank.
  std::size_t parameters = 0;
  std::size_t gradients = 0;
  std::size_t optimizer = 0;    // its shard of the moments
  std::size_t activations = 0;  // the most that lives at once within a step, kernels' scratch too
  std::size_t buffers = 0;      // of the communicators
  std::size_t staging = 0;      // host memory, for checkpoints that are written in the background

  std::size_t rank_total() const {
    return parameters + gradients + optimizer + activations + buffers + staging;
  }
};

/// The host memory that a checkpoint of these pieces is copied to before it is written; 0 where a
/// run needs no copy.
std::size_t staging_bytes(const Config& config, const std::vector<TensorPiece>& pieces,
                          Device device);

/// Runs one optimizer step of the real program on the meta device, as one rank of `ranks`, and
/// reads off what it would have allocated; nothing is. Experts are taken as loaded evenly, which
/// the activations of an uneven load exceed. `threads` per rank: kernels have scratch per thread.
/// Throws InvalidArgument listing the layout's violations.
MemoryPlan plan_memory(const Config& config, int ranks, int threads);

}  // namespace polymoe
