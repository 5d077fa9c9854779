// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_step.h"
#include "kernels/attention/attention_step_backends.h"
#include "kernels/backend.h"
#include "kernels/rotary/norm_rotary.h"
#include "kernels/rotary/rotary.h"
#include "runtime/arena.h"
#include "runtime/copy.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {

void attention_step(CpuBackend, const AttentionStepShape& shape, const AttentionStepInputs& inputs,
                    const AttentionStepCache& cache, Tensor out, Tensor, Arena& scratch,
                    Stream& stream) {
  const std::int64_t position = *cache.position.data<std::int32_t>();
  const RotaryPositions positions{
      .sequence_length = 1, .first_position = position, .theta = shape.theta};
  const auto rotate = [&](const Tensor& x, const Tensor& scale) {
    if (!scale.defined()) return rotary_forward(positions, x, stream);
    const Arena::Scope scope(scratch);
    const Tensor inv_rms = scratch.allocate({1}, x.dtype());
    norm_rotary_forward(positions, x, scale, shape.norm_epsilon, x, inv_rms, stream);
  };
  const auto by_head = [&](const Tensor& x, std::int64_t heads) {
    return x.view({1, heads, shape.head_dim});
  };
  const Tensor q = by_head(inputs.q, shape.heads), k = by_head(inputs.k, shape.kv_heads);
  rotate(q, inputs.q_norm);
  rotate(k, inputs.k_norm);
  copy(k, cache.keys.rows(position, position + 1), stream);
  copy(by_head(inputs.v, shape.kv_heads), cache.values.rows(position, position + 1), stream);
  const Tensor log_sum_exp = scratch.allocate({1, shape.heads, 1}, q.dtype());
  attention_forward({.batch = 1,
                     .query_length = 1,
                     .key_length = position + 1,
                     .heads = shape.heads,
                     .kv_heads = shape.kv_heads,
                     .head_dim = shape.head_dim},
                    q, cache.keys.rows(0, position + 1), cache.values.rows(0, position + 1),
                    by_head(out, shape.heads), log_sum_exp, scratch, stream);
}

}  // namespace polymoe::detail
