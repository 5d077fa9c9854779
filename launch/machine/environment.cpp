// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/environment.h"

#include <fmt/chrono.h>

#include <ctime>
#include <string>
#include <utility>

#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/machine/version.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/files/json.h"
#include "runtime/system.h"

namespace polymoe {

std::string environment_text(const Config& config, const RunLayout& layout) {
  Json libraries = Json::object();
  for (const auto& [name, number] : library_versions()) libraries.set(name, number);
  Json shape = Json::object();
  shape.set("ranks", layout.ranks);
  shape.set("ranks_on_node", layout.ranks_on_node);
  shape.set("threads_per_rank", layout.threads_per_rank);
  shape.set("expert_parallel", config.parallel.expert);
  const StepShares shares = shares_of(config, layout.ranks);
  shape.set("micro_batch", shares.largest());
  shape.set("micro_batches_per_step", shares.passes);
  Json environment = Json::object();
  environment.set("polymoe", version());
  environment.set("git_revision", git_revision());
  environment.set("libraries", std::move(libraries));
  environment.set("started", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))));
  environment.set("host", host_name());
  environment.set("processor", processor_name());
  environment.set("device", layout.device.type == DeviceType::cuda
                                ? cuda::describe_device(layout.device.index)
                                : name_of(layout.device));
  environment.set("transport", layout.transport);
  environment.set("usable_cores", usable_cores());
  environment.set("usable_memory_bytes", usable_memory_bytes());
  environment.set("layout", std::move(shape));
  return environment.dump_indented() + "\n";
}

}  // namespace polymoe
