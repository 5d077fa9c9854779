// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/instruction_set.h"

#include <hwy/targets.h>

#include <cstdint>
#include <string>

namespace polymoe::cpu {

std::string instruction_set_in_use() {
  // The better a target, the lower its bit.
  const std::int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(usable & -usable);
}

}  // namespace polymoe::cpu
