// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include "kernels/cuda/real_dtype.cuh"
#include "kernels/feed_forward/feed_forward_step_cuda.h"
#include "kernels/matmul/row_products_cuda_sources.cuh"
#include "kernels/matmul/row_products_cuda_stream.cuh"
#include "kernels/router/router_cuda_choice.cuh"

namespace polymoe::cuda {
namespace {

/// A token's choice, which each block makes for itself.
struct Choice {
  ChoiceRule rule;
  const float* logits;
  const float* bias;  // or null
  std::int32_t* ids;  // for the kernels that follow
  float* weights;

  /// Of shared memory: keys, logits, scores and ids.
  int words() const { return 3 * rule.experts + rule.top_k; }
  int vectors() const { return divide_up(words(), 4); }

  /// Brings the logits, which the kernel before made. By all threads, as the following ones.
  __device__ void fetch(unsigned* words) const {
    if (threadIdx.x >= warp_size) return;
    float* const own = logits_in(words);
    for (int e = static_cast<int>(threadIdx.x); e < rule.experts; e += warp_size)
      own[e] = logits[e];
  }
  /// The ids and scores, in shared memory.
  __device__ void make(unsigned* words) const {
    unsigned* const keys = words;
    if (threadIdx.x < warp_size) {
      score_row(rule, logits_in(words), scores_in(words));
      choice_keys(rule, scores_in(words), bias, keys);
    }
    __syncthreads();
    choose_experts_by_place(rule, keys, ids_in(words));
    __syncthreads();
  }
  /// Hands the choice to the kernels that follow, from the block that has least to do.
  __device__ void keep(unsigned* words) const {
    if (blockIdx.x != gridDim.x - 1 || threadIdx.x >= warp_size) return;
    const float* const scores = scores_in(words);
    const std::int32_t* const chosen = ids_in(words);
    const float scale = weight_scale(rule, scores, chosen);
    for (int j = static_cast<int>(threadIdx.x); j < rule.top_k; j += warp_size) {
      ids[j] = chosen[j];
      weights[j] = scores[chosen[j]] * scale;
    }
  }
  __device__ float* logits_in(unsigned* words) const {
    return reinterpret_cast<float*>(words + rule.experts);
  }
  __device__ float* scores_in(unsigned* words) const {
    return reinterpret_cast<float*>(words + 2 * rule.experts);
  }
  __device__ std::int32_t* ids_in(unsigned* words) const {
    return reinterpret_cast<std::int32_t*>(words + 3 * rule.experts);
  }
};

/// The tiles of the slots' experts, one behind the other.
template <class T>
struct ChosenRows {
  static constexpr int matrices = 1;
  const T* weights;  // [experts, outputs, k]
  T* pre;            // [slots, outputs]
  int tiles, tiles_of_slot, outputs, vectors, k;
  const std::int32_t* chosen;

  __device__ int first_of(int tile) const { return tile % tiles_of_slot * RowStream::tile_rows; }
  __device__ WeightTile tile(int tile, int) const {
    const int first = first_of(tile);
    const std::int64_t expert = chosen[tile / tiles_of_slot];
    return {weights + (expert * outputs + first) * k, min(outputs - first, RowStream::tile_rows)};
  }
  __device__ float before(int, int) const { return 0.0F; }
  __device__ void keep(int tile, int row, float sum) const {
    pre[tile / tiles_of_slot * outputs + first_of(tile) + row] = from_float<T>(sum);
  }
};

template <class T, class Source>
__global__ void __launch_bounds__(RowStream::threads)
    streamed_products_of_chosen(const __grid_constant__ ChosenRows<T> of_all, const Source source,
                                const Choice choice) {
  extern __shared__ uint4 shared[];
  let_next_begin();
  uint4* const ring = shared + source.shared_vectors();
  auto* const words = reinterpret_cast<unsigned*>(ring + RowStream::ring_vectors);
  source.prepare(shared);
  wait_for_previous();
  // The row first: what it is made of and the logits come at the same time.
  source.fetch(shared);
  choice.fetch(words);
  source.template form<0>(shared);
  choice.make(words);
  ChosenRows<T> rows = of_all;
  rows.chosen = choice.ids_in(words);
  WeightStream<ChosenRows<T>> stream(rows, ring);
  stream.begin();
  multiply_rows<T>(rows, stream, shared);
  choice.keep(words);
}

// Rows that are not made of vectors, or too long: a tile per block.
template <class T>
__global__ void __launch_bounds__(RowStream::threads)
    any_products_of_chosen(const __grid_constant__ ChosenRows<T> of_all, const T* x,
                           const Choice choice) {
  extern __shared__ unsigned words[];
  let_next_begin();
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  wait_for_previous();
  choice.fetch(words);
  choice.make(words);
  choice.keep(words);
  ChosenRows<T> rows = of_all;
  rows.chosen = choice.ids_in(words);
  const int tile = static_cast<int>(blockIdx.x);
  const WeightTile weights = rows.tile(tile, 0);
  for (int r = static_cast<int>(threadIdx.x) / warp_size; r < weights.rows; r += RowStream::warps) {
    const T* const row = static_cast<const T*>(weights.first) + std::int64_t{r} * rows.k;
    float sum = 0.0F;
    for (int i = lane; i < rows.k; i += warp_size)
      sum = fmaf(to_float(row[i]), to_float(x[i]), sum);
    sum = sum_over_warp(sum);
    if (lane == 0) rows.keep(tile, r, sum);
  }
}

template <class T>
RowArguments<T> row_of(const RowInput& input) {
  return {static_cast<const T*>(input.x.raw()), static_cast<const T*>(input.scale.raw()),
          static_cast<float>(input.epsilon), static_cast<int>(input.x.dim(1))};
}

Choice choice_of(const ChosenUp& call) {
  const ExpertChoice& choice = call.choice;
  return {.rule = {static_cast<int>(choice.logits.dim(1)), static_cast<int>(choice.top_k),
                   choice.rule.scores == RouterScores::softmax, choice.rule.normalize},
          .logits = choice.logits.data<float>(),
          .bias = static_cast<const float*>(choice.bias.raw()),
          .ids = call.ids.data<std::int32_t>(),
          .weights = call.weights.data<float>()};
}

template <class T>
bool streams(const ChosenUp& call) {
  return row_of<T>(call.input).streams(choice_of(call).vectors()) &&
         in_vectors<T>(call.up.dim(2), {call.up.raw()});
}

}  // namespace

bool norms_in_product(const ChosenUp& call) {
  bool result = false;
  with_real(call.pre.dtype(), [&]<class T>(T) { result = streams<T>(call); });
  return result;
}

void multiply_by_chosen(const ChosenUp& call, Stream& stream) {
  const Choice choice = choice_of(call);
  with_real(call.pre.dtype(), [&]<class T>(T) {
    const int k = static_cast<int>(call.up.dim(2)), outputs = static_cast<int>(call.up.dim(1));
    const int tiles_of_slot = RowStream::tiles_of(outputs);
    const ChosenRows<T> rows{.weights = static_cast<const T*>(call.up.raw()),
                             .pre = static_cast<T*>(call.pre.raw()),
                             .tiles = tiles_of_slot * static_cast<int>(call.pre.dim(0)),
                             .tiles_of_slot = tiles_of_slot,
                             .outputs = outputs,
                             .vectors = k / Vector<T>::size,
                             .k = k,
                             .chosen = nullptr};
    const RowArguments<T> row = row_of<T>(call.input);
    if (!streams<T>(call)) {
      launch_early<&any_products_of_chosen<T>>(
          dim3(static_cast<unsigned>(rows.tiles)), RowStream::threads,
          static_cast<std::size_t>(choice.words()) * sizeof(unsigned), native(stream), rows, row.x,
          choice);
      return;
    }
    row.with_source([&]<class Source>(const Source& source) {
      launch_row_stream<&streamed_products_of_chosen<T, Source>>(
          rows.tiles, static_cast<std::size_t>(source.shared_vectors() + choice.vectors()), stream,
          rows, source, choice);
    });
  });
}

}  // namespace polymoe::cuda
