// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/version.h"

#include <revision.h>  // written at build time by launch/revision.cmake

namespace polymoe {

std::string version() { return POLYMOE_VERSION; }

std::string git_revision() { return POLYMOE_REVISION; }

std::vector<std::pair<std::string, std::string>> library_versions() { return {POLYMOE_LIBRARIES}; }

std::string version_text() {
  std::string text = "polymoe " + version() + " (" + git_revision() + ")\n";
  for (const auto& [name, number] : library_versions())
    text.append("  ").append(name).append(" ").append(number).append("\n");
  return text;
}

}  // namespace polymoe
