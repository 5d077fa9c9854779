// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/gpu.h"

#include <cuda_runtime_api.h>

#include <array>

#include "runtime/cuda/check.h"

namespace polymoe::cuda {

std::string gpu_identity(int index) {
  std::array<char, 32> bus{};
  check(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), index),
        "cudaDeviceGetPCIBusId");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  std::string text = std::string(bus.data()) + " GPU-";
  for (const char byte : properties.uuid.bytes) {
    constexpr const char* digits = "0123456789abcdef";
    const auto value = static_cast<unsigned char>(byte);
    text.push_back(digits[value >> 4]);
    text.push_back(digits[value & 15]);
  }
  return text;
}

void* allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "cudaMallocHost");
  return memory;
}

void release_pinned(void* memory) noexcept { cudaFreeHost(memory); }

}  // namespace polymoe::cuda
