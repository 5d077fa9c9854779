// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/version.h"

#include <revision.h>  // written at build time by launch/revision.cmake
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/instruction_set.h"
#include "runtime/cuda/cuda_device.h"

namespace polymoe {

std::string version() { return POLYMOE_VERSION; }

std::string git_revision() { return POLYMOE_REVISION; }

std::vector<std::pair<std::string, std::string>> library_versions() { return {POLYMOE_LIBRARIES}; }

std::string version_text() {
  std::string text = "polymoe " + version() + " (" + git_revision() + ")\n";
  for (const auto& [name, number] : library_versions())
    text.append("  ").append(name).append(" ").append(number).append("\n");
  text.append("  vectors of this processor ").append(cpu::instruction_set_in_use()).append("\n");
  if (cuda::device_count() == 0)
    text.append("  GPUs: ").append(cuda::unavailable_reason()).append("\n");
  for (int i = 0; i < cuda::device_count(); ++i)
    text.append("  GPU ")
        .append(std::to_string(i) + " ")
        .append(cuda::describe_device(i))
        .append("\n");
  return text;
}

}  // namespace polymoe
