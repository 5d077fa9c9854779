// SPDX-License-Identifier: Apache-2.0
// How a warp scores a token's experts, and a warp or a block chooses among them.
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

/// The same ids by a block of whole warps, whose threads look at all keys at once: an expert's
/// place is how many come before it. The keys stay. The caller has the barriers before and behind
/// it.
__device__ inline void choose_experts_by_place(const ChoiceRule& r, const unsigned* keys,
                                               std::int32_t* ids) {
  constexpr int lanes = 4;  // of an expert
  const int thread = static_cast<int>(threadIdx.x), part = thread % lanes;
  const int at_once = static_cast<int>(blockDim.x) / lanes;
  for (int first = 0; first < r.experts; first += at_once) {
    const int e = first + thread / lanes;
    const unsigned own = e < r.experts ? keys[e] : 0;
    int before = 0;
    for (int other = part; other < r.experts; other += lanes) {
      const unsigned key = keys[other];
      before += key > own || (key == own && other < e) ? 1 : 0;
    }
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2)
      before += __shfl_xor_sync(whole_warp, before, distance);
    if (e < r.experts && part == 0 && before < r.top_k) ids[before] = e;
  }
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
