// SPDX-License-Identifier: Apache-2.0
#include "launch/step/arena_size.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "launch/config/config.h"
#include "launch/step/memory_plan.h"
#include "launch/step/pass_limits.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

/// Tokens of a pass that keeps a GPU busy.
constexpr std::int64_t busy_tokens = 32768;

std::size_t usable_bytes() { return static_cast<std::size_t>(usable_memory_bytes()); }

/// Free memory of a GPU, as it was before any of the ranks that share it took some.
std::size_t free_bytes(Device device, Communicator& world) {
  const std::size_t free = cuda::memory_info(device.index).free;
  world.barrier();
  return free;
}

}  // namespace

std::size_t training_arena_bytes(const Config& config, const ProcessMesh& mesh,
                                 const RankDevice& place) {
  if (place.device.type != DeviceType::cuda) return usable_bytes();
  const MemoryPlan plan = plan_memory(config, {.ranks = mesh.world().size(),
                                               .threads = place.threads,
                                               .backend = DeviceType::cuda,
                                               .node_ranks = mesh.node_ranks()});
  const std::size_t free = free_bytes(place.device, mesh.world());
  return gpu_arena_bytes(plan, free / static_cast<std::size_t>(place.device_sharers));
}

InferenceArena inference_arena(const Config& config, const ProcessMesh& mesh, Device device,
                               std::int64_t batch) {
  if (device.type != DeviceType::cuda)
    return {.limits = training_pass_limits(config, mesh.world().size(), device),
            .bytes = usable_bytes()};
  // Other ranks, and others, may compute on it too.
  constexpr std::size_t parts = 4;
  const std::size_t free = free_bytes(device, mesh.world());
  const auto plan = [&](std::int64_t tokens) {
    return plan_inference(config, mesh, device.type,
                          {.limits = gpu_pass_limits(config, tokens), .batch = batch});
  };
  const auto fits = [&](std::int64_t tokens) {
    const InferenceMemory memory = plan(tokens);
    return memory.parameters + parts * memory.activations <= free;
  };
  std::int64_t tokens = busy_tokens;
  while (tokens > config.model.context && !fits(tokens)) tokens /= 2;
  // Ranks make the same passes, also where one has less memory than the others.
  tokens = least_of_ranks(tokens, mesh.world());
  return {.limits = gpu_pass_limits(config, tokens), .bytes = plan(tokens).activations};
}

PassLimits run_pass_limits(const Config& config, const ProcessMesh& mesh, Device device,
                           std::size_t arena_bytes) {
  PassLimits limits = training_pass_limits(config, mesh.world().size(), device);
  // What rows on their way between nodes take is in no plan of passes that only answer.
  if (device.type != DeviceType::cuda || mesh.expert_groups().node != nullptr) return limits;
  const auto fits = [&](const PassLimits& wanted) {
    return plan_inference(config, mesh, device.type, {.limits = wanted}).activations <= arena_bytes;
  };
  const auto larger = [&] {
    for (std::int64_t tokens = busy_tokens; tokens > limits.tokens; tokens /= 2)
      if (const PassLimits wanted = gpu_pass_limits(config, tokens); fits(wanted)) return wanted;
    PassLimits wanted = gpu_pass_limits(config, limits.tokens);
    for (; wanted.places > limits.places; wanted.places /= 2)
      if (fits(wanted)) return wanted;
    return limits;
  }();
  limits.tokens = least_of_ranks(larger.tokens, mesh.world());
  limits.places = least_of_ranks(larger.places, mesh.world());
  return limits;
}

std::size_t bench_arena_bytes(const MemoryPlan& plan, bool with_model, Communicator& world,
                              Device device) {
  if (device.type != DeviceType::cuda) return usable_bytes();
  constexpr std::size_t reserve = std::size_t{4} << 30;
  const std::size_t free = free_bytes(device, world);
  if (with_model) gpu_arena_bytes(plan, free);  // says what does not fit
  const std::size_t model = with_model ? plan.device_total() - plan.activations : 0;
  const std::size_t taken = std::min(free, model + reserve);
  return std::max(free - taken, with_model ? plan.activations : std::size_t{0});
}

}  // namespace polymoe
