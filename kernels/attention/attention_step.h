// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Sizes of one step of generation.
struct AttentionStepShape {
  std::int64_t heads = 0;  // a multiple of kv_heads: grouped queries
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;  // even
  double theta = 1e4;         // of the rotation
  double norm_epsilon = 0.0;
};

/// A token's projections, and the scales of their norms (kernels/rotary/norm_rotary.h).
struct AttentionStepInputs {
  Tensor q;               // [1, heads * head_dim]: overwritten
  Tensor k, v;            // [1, kv_heads * head_dim]: overwritten
  Tensor q_norm, k_norm;  // as q and k, [width]; undefined without norms
};

/// Keys and values of the tokens before it.
struct AttentionStepCache {
  Tensor keys, values;  // [capacity, kv_heads, head_dim]
  Tensor position;      // [1] i32: of the token, which is how many lie before it; below capacity
  Tensor tickets;       // [heads] i32: zeros, before as afterwards
};

/// Attention of one token to those before it and itself, from its projections on: q and k are
/// normed where they have scales, and rotated by the token's position; k and v are written to the
/// cache at that position; out = softmax(q keys^T / sqrt(head_dim)) values per head.
///
/// out [1, heads * head_dim]
///
/// The position is read where it lies, on the device: a recorded step (runtime/recorded_work.h)
/// works at every position. All of one dtype: f32 or f64 on the CPU, f32 or bf16 on CUDA, where
/// sums are f32, head_dim is at most 256, and the keys are shared out in spans of 256, whose
/// results are added in their order: the bits do not depend on the capacity. Asynchronous on
/// `stream`. The spans' results lie in `scratch`. Throws InvalidArgument on a shape, dtype or
/// device mismatch.
void attention_step(const AttentionStepShape& shape, const AttentionStepInputs& inputs,
                    const AttentionStepCache& cache, Tensor out, Arena& scratch, Stream& stream);

}  // namespace polymoe
