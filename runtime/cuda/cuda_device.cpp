// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/cuda_device.h"

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

constexpr double gibibyte = 1024.0 * 1024.0 * 1024.0;

cudaError_t count_devices(int& count) {
  count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();  // a missing driver must not fail the next call
    count = 0;
  }
  return status;
}

}  // namespace

int device_count() {
  int count = 0;
  count_devices(count);
  return count;
}

std::string unavailable_reason() {
  int count = 0;
  const cudaError_t status = count_devices(count);
  if (status != cudaSuccess) return fmt::format("no usable GPU: {}", cudaGetErrorString(status));
  return "no GPU on this machine";
}

std::string describe_device(int index) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  return fmt::format("{}, {:.1f} GiB, compute capability {}.{}", properties.name,
                     static_cast<double>(properties.totalGlobalMem) / gibibyte, properties.major,
                     properties.minor);
}

void use_device(int index) { check(cudaSetDevice(index), "cudaSetDevice"); }

void* allocate(std::size_t bytes, int index) {
  use_device(index);
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    const MemoryInfo info = memory_info(index);
    throw DeviceError(fmt::format("out of memory on cuda:{}: {} bytes wanted, {} of {} free", index,
                                  bytes, info.free, info.total));
  }
  check(status, "cudaMalloc");
  check(cudaMemset(memory, 0, bytes), "cudaMemset");
  // The legacy stream's fill does not order itself before other streams' work.
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  return memory;
}

void release(void* memory) noexcept { cudaFree(memory); }

MemoryInfo memory_info(int index) {
  use_device(index);
  MemoryInfo info;
  check(cudaMemGetInfo(&info.free, &info.total), "cudaMemGetInfo");
  return info;
}

void* create_stream(int index) {
  use_device(index);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return stream;
}

void destroy_stream(void* stream) noexcept { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }

void synchronize_stream(void* stream) {
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "cudaStreamSynchronize");
}

void* create_event(int index) {
  use_device(index);
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  return event;
}

void destroy_event(void* event) noexcept { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

void record_event(void* event, void* stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)),
        "cudaEventRecord");
}

double seconds_between(void* begin, void* end) {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(end)), "cudaEventSynchronize");
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(begin),
                             static_cast<cudaEvent_t>(end)),
        "cudaEventElapsedTime");
  return 1e-3 * static_cast<double>(milliseconds);
}

void synchronize_device(int index) {
  use_device(index);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

void copy(void* to, const void* from, std::size_t bytes, void* stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)),
        "cudaMemcpyAsync");
}

void fill_bytes(void* memory, int value, std::size_t bytes, void* stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(memory, value, bytes, static_cast<cudaStream_t>(stream)),
        "cudaMemsetAsync");
}

}  // namespace polymoe::cuda
