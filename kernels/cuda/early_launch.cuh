// SPDX-License-Identifier: Apache-2.0
// Small kernels in a row, as generation has them, spend as long beginning as working. A kernel that
// is launched early begins while the one before it still runs: it may load what no kernel of the
// step writes (weights), and then waits.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "runtime/cuda/check.h"

namespace polymoe::cuda {

/// The stream's next kernel may begin, where it is launched early, once all blocks of this one have
/// come here or ended. Nothing otherwise.
__device__ inline void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Until the stream's kernels before this one have ended and what they wrote can be seen. Before it
/// nothing may be written, and nothing read but what they do not write. Nothing in a kernel that
/// was not launched early. Every block calls it.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Brings 128 bytes to the second-level cache.
__device__ inline void prefetch(const void* memory) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(memory));
}

/// All of a processor's fast memory as shared memory, not as cache: kernels that ask for different
/// parts do not run beside each other on a processor, and so cannot begin early.
template <auto kernel>
void prefer_shared_memory() {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "cudaFuncSetAttribute");
}

/// Launches a kernel that calls wait_for_previous(), early where it was compiled for devices that
/// can (compute capability 9.0).
template <auto kernel, class... Arguments>
void launch_early(dim3 grid, unsigned threads, std::size_t shared_bytes, cudaStream_t stream,
                  Arguments&&... arguments) {
  static const bool can = [] {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
    return attributes.ptxVersion >= 90;
  }();
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = can ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...),
        "cudaLaunchKernelEx");
}

/// The same where there are so few blocks that beginning takes much of the time; else as any
/// kernel.
template <auto kernel, class... Arguments>
void launch_early_if_few(unsigned blocks, unsigned threads, std::size_t shared_bytes,
                         cudaStream_t stream, Arguments&&... arguments) {
  constexpr unsigned few = 16;
  if (blocks <= few)
    launch_early<kernel>(dim3(blocks), threads, shared_bytes, stream,
                         std::forward<Arguments>(arguments)...);
  else
    kernel<<<blocks, threads, shared_bytes, stream>>>(std::forward<Arguments>(arguments)...);
}

}  // namespace polymoe::cuda
