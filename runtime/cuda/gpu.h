// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

/// What communicators ask of the CUDA runtime library: gpu.cpp in a build with CUDA, no_gpu.cpp in
/// one without, where everything throws DeviceError.
namespace polymoe::cuda {

/// Tells the GPUs of a node, or of all nodes, apart: "0000:3b:00.0 GPU-<uuid>". Two processes get
/// the same text for the same GPU whatever its index is in each.
std::string gpu_identity(int index);

/// Page-locked host memory, which the GPU reads and writes directly.
void* allocate_pinned(std::size_t bytes);
void release_pinned(void* memory) noexcept;

}  // namespace polymoe::cuda
