// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "runtime/device.h"
#include "runtime/files/json.h"

namespace polymoe {

/// How the device of a rank does: its GPU, by NVML, or its processor. A number is 0 and a text
/// empty where the system does not say.
struct MachineState {
  std::string host;
  double clock_mhz = 0.0;    // of the GPU, or the mean of the cores that this process may use
  double highest_mhz = 0.0;  // that it could be
  double celsius = 0.0;      // GPUs
  double watts = 0.0;        // GPUs
  double highest_watts = 0.0;
  std::string throttled;  // GPUs: "power cap, heat"
  double load = 0.0;      // processors: tasks that run or want to, per core of the machine

  /// "1410 of 1980 MHz, 83 C, 690 of 700 W, held back by: power cap".
  std::string text() const;
  /// The members that are known.
  Json to_json() const;
};

MachineState machine_state(Device device);

}  // namespace polymoe
