// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "runtime/device.h"
#include "runtime/error.h"

namespace polymoe {

/// Tag of the CPU backend; every operation's `detail` function has an overload on it.
struct CpuBackend {};

/// Whether an operation adds to its output or replaces it.
enum class Write : bool { overwrite, accumulate };

/// Calls `operation(backend)` with the tag of the device's backend: the only place that knows which
/// backends this build has. On the meta device nothing runs.
template <class Operation>
void dispatch(Device device, Operation&& operation) {
  switch (device.type) {
    case DeviceType::meta:
      return;
    case DeviceType::cpu:
      std::forward<Operation>(operation)(CpuBackend{});
      return;
    case DeviceType::cuda:
      break;
  }
  throw DeviceError("no backend for " + name_of(device) + " in this build");
}

}  // namespace polymoe
