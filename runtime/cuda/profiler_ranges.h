// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polymoe::cuda {

/// Ends this thread's range in the traces of NVIDIA's profilers (NVTX), where it has one, and
/// begins one of that name; costs next to nothing where no profiler runs. Not in a build without
/// CUDA.
void profiler_range(const char* name);

}  // namespace polymoe::cuda
