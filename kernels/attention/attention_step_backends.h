// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/attention/attention_step.h"
#include "kernels/backend.h"

namespace polymoe::detail {

/// Keys of a span.
constexpr std::int64_t attention_step_span = 256;

/// The CPU takes what its attention needs from `scratch`. CUDA's partial sums, allocated before
/// dispatch: [heads, spans of the capacity, head_dim + 2], the largest score and the sum of
/// exponentials last.
void attention_step(CpuBackend, const AttentionStepShape& shape, const AttentionStepInputs& inputs,
                    const AttentionStepCache& cache, Tensor out, Tensor partials, Arena& scratch,
                    Stream& stream);

void attention_step(CudaBackend, const AttentionStepShape& shape, const AttentionStepInputs& inputs,
                    const AttentionStepCache& cache, Tensor out, Tensor partials, Arena& scratch,
                    Stream& stream);

}  // namespace polymoe::detail
