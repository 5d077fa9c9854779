// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <utility>

#include "runtime/cuda/gpu_health.h"

namespace polymoe::cuda {

std::vector<std::string> throttle_reasons(unsigned long long mask) {
  // The bits of nvmlClocksThrottleReasons, called event reasons in newer versions.
  static constexpr std::array<std::pair<unsigned long long, const char*>, 6> reasons{{
      {0x04, "power cap"},
      {0x08, "hardware slowdown"},
      {0x10, "sync boost with a slower GPU"},
      {0x20, "heat (software)"},
      {0x40, "heat (hardware)"},
      {0x80, "power brake"},
  }};
  std::vector<std::string> names;
  for (const auto& [bit, name] : reasons)
    if ((mask & bit) != 0) names.emplace_back(name);
  return names;
}

}  // namespace polymoe::cuda
