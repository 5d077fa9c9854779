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
      break;
  }
  throw DeviceError("this operation has no kernel for " + name_of(device) + " yet");
}

/// dispatch() of the operations that run on GPUs too.
template <class Operation>
void dispatch_with_cuda(Device device, Operation&& operation) {
#if POLYMOE_CUDA
  if (device.type == DeviceType::cuda) {
    std::forward<Operation>(operation)(CudaBackend{});
    return;
  }
#endif
  dispatch(device, std::forward<Operation>(operation));
}

}  // namespace polymoe
