// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/profiler_ranges.h"

#include <nvtx3/nvToolsExt.h>

namespace polymoe::cuda {

void profiler_range(const char* name) {
  nvtxRangePop();  // of none where there is none
  nvtxRangePushA(name);
}

}  // namespace polymoe::cuda
