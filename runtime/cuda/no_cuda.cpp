// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/cuda_device.h"
#include "runtime/cuda/graph.h"
#include "runtime/error.h"

namespace polymoe::cuda {
namespace {

[[noreturn]] void refuse() { throw DeviceError(unavailable_reason()); }

}  // namespace

int device_count() { return 0; }
std::string unavailable_reason() { return "this build of polymoe has no CUDA backend"; }
std::string describe_device(int) { refuse(); }
void use_device(int) { refuse(); }
void* allocate(std::size_t, int) { refuse(); }
void release(void*) noexcept {}
MemoryInfo memory_info(int) { refuse(); }
void* create_stream(int) { refuse(); }
void destroy_stream(void*) noexcept {}
void synchronize_stream(void*) { refuse(); }
void* create_event(int) { refuse(); }
void destroy_event(void*) noexcept {}
void record_event(void*, void*) { refuse(); }
double seconds_between(void*, void*) { refuse(); }
void synchronize_device(int) { refuse(); }
void copy(void*, const void*, std::size_t, void*) { refuse(); }
void fill_bytes(void*, int, std::size_t, void*) { refuse(); }
void begin_recording(void*) { refuse(); }
void* end_recording(void*) { refuse(); }
void abandon_recording(void*) noexcept {}
void submit_recording(void*, void*) { refuse(); }
void destroy_recording(void*) noexcept {}

}  // namespace polymoe::cuda
