// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/stream.h"

namespace polymoe {

/// Tags of the backends; an operation's `detail` function has an overload on each it runs on.
struct CpuBackend {};
struct CudaBackend {};

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
#if POLYMOE_CUDA
      std::forward<Operation>(operation)(CudaBackend{});
      return;
#else
      throw DeviceError("this build has no kernels for " + name_of(device));
#endif
  }
}

}  // namespace polymoe
