// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/gpu_health.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <array>
#include <type_traits>

namespace polymoe::cuda {
namespace {

// NVML comes with the driver, its header with a package of its own; these are the few functions and
// numbers of its stable interface that are called here.
using Handle = struct nvmlDevice_st*;
constexpr int success = 0, clock_of_multiprocessors = 1, sensor_of_gpu = 0;

/// The library's functions, null where it has none of that name.
struct Library {
  int (*init)() = nullptr;
  int (*handle_by_bus)(const char*, Handle*) = nullptr;
  int (*clock)(Handle, int, unsigned*) = nullptr;
  int (*highest_clock)(Handle, int, unsigned*) = nullptr;
  int (*temperature)(Handle, int, unsigned*) = nullptr;
  int (*power)(Handle, unsigned*) = nullptr;
  int (*power_limit)(Handle, unsigned*) = nullptr;
  int (*throttling)(Handle, unsigned long long*) = nullptr;

  Library() {
    void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    const auto find = [&](auto& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    };
    find(init, "nvmlInit_v2");
    find(handle_by_bus, "nvmlDeviceGetHandleByPciBusId_v2");
    find(clock, "nvmlDeviceGetClockInfo");
    find(highest_clock, "nvmlDeviceGetMaxClockInfo");
    find(temperature, "nvmlDeviceGetTemperature");
    find(power, "nvmlDeviceGetPowerUsage");
    find(power_limit, "nvmlDeviceGetEnforcedPowerLimit");
    find(throttling, "nvmlDeviceGetCurrentClocksThrottleReasons");
    if (init == nullptr || init() != success) handle_by_bus = nullptr;
  }
};

}  // namespace

std::optional<GpuHealth> gpu_health(int index) {
  static const Library nvml;
  std::array<char, 32> bus{};
  Handle handle = nullptr;
  if (nvml.handle_by_bus == nullptr ||
      cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), index) != cudaSuccess ||
      nvml.handle_by_bus(bus.data(), &handle) != success)
    return std::nullopt;
  const auto number = [&](auto function, double unit, auto... arguments) {
    unsigned value = 0;
    return function != nullptr && function(handle, arguments..., &value) == success ? value * unit
                                                                                    : 0.0;
  };
  GpuHealth health{.clock_mhz = number(nvml.clock, 1.0, clock_of_multiprocessors),
                   .highest_mhz = number(nvml.highest_clock, 1.0, clock_of_multiprocessors),
                   .celsius = number(nvml.temperature, 1.0, sensor_of_gpu),
                   .watts = number(nvml.power, 1e-3),
                   .highest_watts = number(nvml.power_limit, 1e-3),
                   .throttled = {}};
  unsigned long long mask = 0;
  if (nvml.throttling != nullptr && nvml.throttling(handle, &mask) == success)
    health.throttled = throttle_reasons(mask);
  return health;
}

}  // namespace polymoe::cuda
