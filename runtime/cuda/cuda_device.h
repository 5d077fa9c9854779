// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

/// The seam between the runtime and the CUDA runtime library: cuda_device.cpp in a build with CUDA,
/// no_cuda.cpp in one without, where there are no devices and everything else throws DeviceError.
namespace polymoe::cuda {

/// Usable GPUs of this process; 0 where there is no driver, no GPU, or no CUDA in the build.
int device_count();
/// Why device_count() is 0, in one line.
std::string unavailable_reason();
/// "NVIDIA H200, 139.8 GiB, compute capability 9.0".
std::string describe_device(int index);

/// Makes `index` the calling thread's device for the library calls that follow.
void use_device(int index);

/// Zero-filled device memory. Throws DeviceError naming size, free and total memory.
void* allocate(std::size_t bytes, int index);
void release(void* memory) noexcept;
/// Free and total bytes of a device.
struct MemoryInfo {
  std::size_t free = 0;
  std::size_t total = 0;
};
MemoryInfo memory_info(int index);

void* create_stream(int index);
void destroy_stream(void* stream) noexcept;
void synchronize_stream(void* stream);
/// Blocks until all work of all streams is done.
void synchronize_device(int index);

/// A point in a stream's work, to be recorded any number of times.
void* create_event(int index);
void destroy_event(void* event) noexcept;
void record_event(void* event, void* stream);
/// From one recorded point to a later one; blocks until the stream has reached that.
double seconds_between(void* begin, void* end);

/// Copies between any two of host and device memory, in order on `stream`. From and to pageable
/// host memory the call returns when the host side is done.
void copy(void* to, const void* from, std::size_t bytes, void* stream);
/// Sets every byte, in order on `stream`.
void fill_bytes(void* memory, int value, std::size_t bytes, void* stream);

}  // namespace polymoe::cuda
