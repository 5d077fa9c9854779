// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "runtime/error.h"

namespace polymoe::cuda {

/// Throws DeviceError with the call's name and CUDA's own words unless it succeeded.
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  throw DeviceError(std::string(call) + ": " + cudaGetErrorString(status));
}

/// After a kernel launch: reports a bad configuration; failures while it runs surface later.
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace polymoe::cuda
