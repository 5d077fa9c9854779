// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "launch/config/config.h"
#include "runtime/device.h"

namespace polymoe {

/// How a run is spread over machines.
struct RunLayout {
  int ranks = 1;
  int ranks_on_node = 1;
  int threads_per_rank = 1;
  Device device = Device::cpu();  // of rank 0
  std::string transport = {};     // how tensors of that device travel between ranks
};

/// The content of RUN/environment.json: versions, git revision, machine, layout.
std::string environment_text(const Config& config, const RunLayout& layout);

}  // namespace polymoe
