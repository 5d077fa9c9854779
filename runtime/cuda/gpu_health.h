// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace polymoe::cuda {

/// What NVIDIA's management library says of a GPU. A number is 0 where it does not say.
struct GpuHealth {
  double clock_mhz = 0.0;  // of the multiprocessors
  double highest_mhz = 0.0;
  double celsius = 0.0;
  double watts = 0.0;
  double highest_watts = 0.0;          // the limit that is enforced
  std::vector<std::string> throttled;  // why the clock is lower than it could be, idleness aside
};

/// The health of a GPU by its number in this process. The driver's library is loaded at the first
/// call; nothing where it is missing or does not know the GPU, and in a build without CUDA.
std::optional<GpuHealth> gpu_health(int index);

/// The names of the reasons that a bit mask of NVML holds, without idleness and settings that
/// somebody chose.
std::vector<std::string> throttle_reasons(unsigned long long mask);

}  // namespace polymoe::cuda
