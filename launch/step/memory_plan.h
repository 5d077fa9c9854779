// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "launch/config/config.h"
#include "launch/step/pass_limits.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/process_mesh.h"

namespace polymoe {

/// What a training run needs, in numbers.
struct MemoryPlan {
  // Over all ranks, each parameter once.
  std::int64_t total_parameters = 0;
  std::int64_t active_parameters = 0;  // that take part in one token's prediction

  // Bytes on one rank.
  std::size_t parameters = 0;
  std::size_t gradients = 0;
  std::size_t optimizer = 0;    // its shard of the moments, and of the lower bits of masters
  std::size_t activations = 0;  // the most that lives at once within a step, kernels' scratch too
  std::size_t buffers = 0;      // of the communicators
  std::size_t staging = 0;      // host memory, for checkpoints that are written in the background

  /// What is taken of the memory that the rank computes in: a GPU's, or the host's.
  std::size_t device_total() const {
    return parameters + gradients + optimizer + activations + buffers;
  }
  std::size_t rank_total() const { return device_total() + staging; }
};

/// The host memory that a checkpoint of these pieces is copied to before it is written; 0 where
/// training waits for its checkpoints.
std::size_t staging_bytes(const Config& config, const std::vector<TensorPiece>& pieces);

/// What a run is planned for.
struct PlannedLayout {
  int ranks = 1;
  int threads = 1;  // per rank: the CPU's kernels have scratch per thread
  DeviceType backend = DeviceType::cpu;
  int node_ranks = 1;  // of an expert group, by which rows go: see ProcessMesh
};

/// Runs one optimizer step of the real program on the meta device, as one rank of the layout, and
/// reads off what it would have allocated; nothing is. Where ranks exchange rows, experts are taken
/// as loaded with moe.row_budget, which no routing exceeds: the rest is worked off in rounds.
/// Throws InvalidArgument listing the layout's violations.
MemoryPlan plan_memory(const Config& config, const PlannedLayout& layout);

/// Capacity of a GPU's arena: the plan's activations. Throws InvalidArgument with the plan's
/// numbers and the keys that lower them when the plan does not fit `free` bytes.
std::size_t gpu_arena_bytes(const MemoryPlan& plan, std::size_t free);

/// Bytes of a rank that only evaluates or generates.
struct InferenceMemory {
  std::size_t parameters = 0;
  std::size_t activations = 0;  // the most that lives at once in the arena
};

/// Texts that a rank continues together where memory has room for them.
constexpr std::int64_t usual_batch = 32;

/// The passes of such a rank: those that score within `limits`, those that continue so many texts
/// at a time, of which some begin with as many tokens as the limits allow, and prompts of the whole
/// context.
struct InferencePasses {
  PassLimits limits;
  std::int64_t batch = usual_batch;
};

/// What such passes take.
InferenceMemory plan_inference(const Config& config, const ProcessMesh& layout, DeviceType backend,
                               const InferencePasses& passes);

}  // namespace polymoe
