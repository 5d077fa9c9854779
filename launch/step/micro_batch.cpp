// SPDX-License-Identifier: Apache-2.0
#include "launch/step/micro_batch.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/step/memory_plan.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/rounding.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

// The driver and CUDA take some of a GPU before anybody asks.
constexpr double share_of_a_gpu = 0.97;

constexpr std::int64_t busy_tokens(DeviceType backend) {
  return backend == DeviceType::cuda ? 65536 : 4096;
}

}  // namespace

void choose_micro_batch(Config& config, const PlannedLayout& layout, std::size_t memory) {
  if (config.train.micro_batch > 0) return;
  const auto fits = [&](std::int64_t sequences) {
    Config trial = config;
    trial.train.micro_batch_limit = sequences;
    const MemoryPlan plan = plan_memory(trial, layout);
    const std::size_t needed =
        layout.backend == DeviceType::cuda ? plan.device_total() : plan.rank_total();
    return needed <= memory;
  };
  std::int64_t most = std::min(sequences_of(busy_tokens(layout.backend), config),
                               divide_up(config.train.global_batch, std::int64_t{layout.ranks}));
  // The memory grows with the sequences: halve the interval [fitting, most].
  if (!fits(most)) {
    std::int64_t fitting = 1;
    while (most - fitting > 1) {
      const std::int64_t middle = fitting + (most - fitting) / 2;
      (fits(middle) ? fitting : most) = middle;
    }
    most = fitting;
  }
  config.train.micro_batch_limit = most;
}

std::size_t memory_of_rank(Device device, int sharers) {
  const double memory =
      device.type == DeviceType::cuda
          ? share_of_a_gpu * static_cast<double>(cuda::memory_info(device.index).total)
          : static_cast<double>(usable_memory_bytes());
  return static_cast<std::size_t>(memory / std::max(sharers, 1));
}

void require_host_memory(const MemoryPlan& plan, std::size_t memory) {
  if (plan.rank_total() <= memory) return;
  const auto gib = [](std::size_t bytes) {
    return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0);
  };
  throw InvalidArgument(fmt::format(
      "configuration: a rank needs {:.2f} GiB of memory, its part of this machine's is {:.2f}: "
      "parameters {:.2f}, gradients {:.2f}, optimizer {:.2f}, activations {:.2f}, buffers {:.2f}, "
      "staging {:.2f}; less are needed with a smaller model.context, train.micro_batch or "
      "train.recompute = activation or block (activations), optimizer.moment_dtype = bf16 or more "
      "machines (optimizer), checkpoint.background = false (staging)",
      gib(plan.rank_total()), gib(memory), gib(plan.parameters), gib(plan.gradients),
      gib(plan.optimizer), gib(plan.activations), gib(plan.buffers), gib(plan.staging)));
}

}  // namespace polymoe
