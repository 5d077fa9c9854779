// SPDX-License-Identifier: Apache-2.0
// How a warp scores a token's experts and chooses among them.
#pragma once

#include <cfloat>
#include <cstdint>

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"

namespace polymoe::cuda {

/// RouterRule and its sizes (kernels/router/router.h) as kernels take them.
struct ChoiceRule {
  int experts, top_k;
  bool softmax, normalize;
};

__device__ inline float reciprocal(float sum) { return 1.0f / fmaxf(sum, FLT_MIN); }

/// Writes the scores, returns log(sum(exp(logits))).
__device__ inline float score_row(const ChoiceRule& r, const float* logits, float* scores) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  float largest = -INFINITY;
  for (int e = lane; e < r.experts; e += warp_size) largest = fmaxf(largest, logits[e]);
  largest = max_over_warp(largest);
  float sum = 0.0f;
  for (int e = lane; e < r.experts; e += warp_size) {
    const float value = expf(logits[e] - largest);
    scores[e] = r.softmax ? value : 1.0f / (1.0f + expf(-logits[e]));
    sum += value;
  }
  sum = sum_over_warp(sum);
  if (r.softmax) {
    const float scale = 1.0f / sum;
    for (int e = lane; e < r.experts; e += warp_size) scores[e] *= scale;
  }
  return largest + logf(sum);
}

/// What experts are chosen by, the largest first. A lane writes those of its own scores.
__device__ inline void choice_keys(const ChoiceRule& r, const float* scores, const float* bias,
                                   unsigned* keys) {
  for (int e = static_cast<int>(threadIdx.x) % warp_size; e < r.experts; e += warp_size)
    keys[e] = ordered_bits(scores[e] + (bias == nullptr ? 0.0f : bias[e]));
}

/// The ids of the top_k largest keys, descending; equal ones by ascending id. A key that was taken
/// becomes 0, which no number has. A lane reads the keys that it wrote.
__device__ inline void choose_experts(const ChoiceRule& r, unsigned* keys, std::int32_t* ids) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  for (int j = 0; j < r.top_k; ++j) {
    unsigned best = 0, expert = 0xffffffffU;
    for (int e = lane; e < r.experts; e += warp_size) {
      if (keys[e] <= best) continue;
      best = keys[e];
      expert = static_cast<unsigned>(e);
    }
    const unsigned largest = __reduce_max_sync(whole_warp, best);
    const unsigned chosen = __reduce_min_sync(whole_warp, best == largest ? expert : 0xffffffffU);
    if (chosen % warp_size == static_cast<unsigned>(lane)) {
      ids[j] = static_cast<std::int32_t>(chosen);
      keys[chosen] = 0;
    }
  }
  __syncwarp();
}

/// What the scores of the chosen experts are multiplied by to give their weights.
__device__ inline float weight_scale(const ChoiceRule& r, const float* scores,
                                     const std::int32_t* ids) {
  if (!r.normalize) return 1.0f;
  float chosen = 0.0f;
  for (int j = static_cast<int>(threadIdx.x) % warp_size; j < r.top_k; j += warp_size)
    chosen += scores[ids[j]];
  return reciprocal(sum_over_warp(chosen));
}

}  // namespace polymoe::cuda
