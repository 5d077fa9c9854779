// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/cuda_device.h"
#include "runtime/cuda/gpu.h"
#include "runtime/cuda/gpu_health.h"
#include "runtime/cuda/profiler_ranges.h"
#include "runtime/error.h"

namespace polymoe::cuda {

std::string gpu_identity(int) { throw DeviceError(unavailable_reason()); }
void* allocate_pinned(std::size_t) { throw DeviceError(unavailable_reason()); }
void release_pinned(void*) noexcept {}
std::optional<GpuHealth> gpu_health(int) { return std::nullopt; }
void profiler_range(const char*) { throw DeviceError(unavailable_reason()); }

}  // namespace polymoe::cuda
