// SPDX-License-Identifier: Apache-2.0
// How large the arena of a rank is: the one place that decides it. On a CPU capacity is an upper
// bound that costs nothing, so it is all of the usable memory; a GPU's arena is allocated at once.
#pragma once

#include <cstddef>

#include "launch/config/config.h"
#include "launch/step/memory_plan.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/device.h"

namespace polymoe {

/// A rank's device, and how it is used.
struct RankDevice {
  Device device = Device::cpu();
  int device_sharers = 1;  // ranks on that GPU
  int threads = 1;         // of this rank
};

/// For training, asked before the model takes memory: of a GPU the plan's need, which no routing
/// exceeds. Collective over the world. Throws InvalidArgument as gpu_arena_bytes() does.
std::size_t training_arena_bytes(const Config& config, const ProcessMesh& mesh,
                                 const RankDevice& place);

/// For evaluation and generation.
struct InferenceArena {
  PassLimits limits;
  std::size_t bytes = 0;
};

/// Asked before the model takes memory: of a GPU the plan's need, for passes that keep it busy as
/// far as they leave it most of its memory, and so many texts continued together. The same limits
/// on every rank. Collective.
InferenceArena inference_arena(const Config& config, const ProcessMesh& mesh, Device device,
                               std::int64_t batch);

/// Of passes that score within a run, whose steps have an arena of so many bytes: on a GPU as many
/// as keep it busy, as far as the arena has room, and at least training_pass_limits(). The same on
/// every rank. Collective.
PassLimits run_pass_limits(const Config& config, const ProcessMesh& mesh, Device device,
                           std::size_t arena_bytes);

/// For measurements, asked before the model takes memory: of a GPU what is free, less what
/// libraries take and, `with_model`, what the planned model takes. Collective over `world`. Throws
/// InvalidArgument as gpu_arena_bytes() does.
std::size_t bench_arena_bytes(const MemoryPlan& plan, bool with_model, Communicator& world,
                              Device device);

}  // namespace polymoe
