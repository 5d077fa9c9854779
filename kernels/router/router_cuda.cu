// SPDX-License-Identifier: Apache-2.0
#include "kernels/router/router_backends.h"

#include <string>

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/early_launch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/router/router_cuda_choice.cuh"
#include "runtime/cuda/check.h"
#include "runtime/cuda/cuda_device.h"

namespace polymoe::detail {
namespace {

using cuda::warp_size;

constexpr int threads = 256;
constexpr int warps = threads / warp_size;
constexpr int chunk_tokens = 64;  // as on the CPU: one order of the statistics' sums
constexpr std::int64_t most_experts = 1024;

// Sizes and places of one call, in the kernels' types.
struct Routing : cuda::ChoiceRule {
  std::int64_t tokens, segment_tokens;
  int chunks;  // of each segment
  float* scores;
  float* log_sum_exp;
  std::int32_t* ids;
  float* weights;
  const std::int32_t* document_starts;  // or null
};

// A block per chunk of a segment's tokens, a warp per token at a time.
__global__ void __launch_bounds__(threads) route(Routing r, const float* logits, const float* bias,
                                                 std::int64_t* chunk_counts, double* chunk_sums) {
  extern __shared__ unsigned shared[];
  cuda::let_next_begin();
  cuda::wait_for_previous();
  unsigned* keys = shared + (threadIdx.x / warp_size) * r.experts;
  auto* counts = reinterpret_cast<int*>(shared + warps * r.experts);
  __shared__ float scales[chunk_tokens];
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t segment = blockIdx.x / static_cast<unsigned>(r.chunks);
  const std::int64_t begin =
      blockIdx.x % static_cast<unsigned>(r.chunks) * std::int64_t{chunk_tokens};
  const std::int64_t end = min(begin + chunk_tokens, r.segment_tokens);
  const std::int64_t first = segment * r.segment_tokens + begin;
  const int tokens = static_cast<int>(end - begin);
  for (int e = static_cast<int>(threadIdx.x); e < r.experts; e += threads) counts[e] = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x) / warp_size; i < tokens; i += warps) {
    const std::int64_t token = first + i;
    float* scores = r.scores + token * r.experts;
    std::int32_t* ids = r.ids + token * r.top_k;
    float* weights = r.weights + token * r.top_k;
    if (r.document_starts != nullptr && r.document_starts[token] == no_document) {
      for (int e = lane; e < r.experts; e += warp_size) scores[e] = 0.0f;
      for (int j = lane; j < r.top_k; j += warp_size) {
        ids[j] = -1;
        weights[j] = 0.0f;
      }
      if (lane == 0) r.log_sum_exp[token] = scales[i] = 0.0f;
      continue;
    }
    const float lse = cuda::score_row(r, logits + token * r.experts, scores);
    if (lane == 0) r.log_sum_exp[token] = lse;
    cuda::choice_keys(r, scores, bias, keys);
    float total = 0.0f;
    for (int e = lane; e < r.experts; e += warp_size) total += scores[e];
    total = cuda::sum_over_warp(total);
    if (lane == 0) scales[i] = r.softmax ? 1.0f : cuda::reciprocal(total);
    __syncwarp();
    cuda::choose_experts(r, keys, ids);
    const float scale = cuda::weight_scale(r, scores, ids);
    for (int j = lane; j < r.top_k; j += warp_size) {
      atomicAdd(&counts[ids[j]], 1);  // whole numbers: any order gives the same
      weights[j] = scores[ids[j]] * scale;
    }
  }
  __syncthreads();
  const std::int64_t out = blockIdx.x * static_cast<std::int64_t>(r.experts);
  for (int e = static_cast<int>(threadIdx.x); e < r.experts; e += threads) {
    double sum = 0.0;
    for (int i = 0; i < tokens; ++i) {
      sum += static_cast<double>(r.scores[(first + i) * r.experts + e] * scales[i]);
    }
    chunk_sums[out + e] = sum;
    chunk_counts[out + e] = counts[e];
  }
}

// A block per (expert, segment).
__global__ void __launch_bounds__(threads)
    add_chunks(int experts, int chunks, const std::int64_t* chunk_counts, const double* chunk_sums,
               std::int64_t* counts, double* sums) {
  __shared__ std::int64_t count_scratch[warps];
  __shared__ double sum_scratch[warps];
  const std::int64_t expert = blockIdx.x % static_cast<unsigned>(experts);
  const std::int64_t segment = blockIdx.x / static_cast<unsigned>(experts);
  std::int64_t count = 0;
  double sum = 0.0;
  for (int c = static_cast<int>(threadIdx.x); c < chunks; c += threads) {
    const std::int64_t place = (segment * chunks + c) * experts + expert;
    count += chunk_counts[place];
    sum += chunk_sums[place];
  }
  count = cuda::sum_over_block(count, count_scratch);
  sum = cuda::sum_over_block(sum, sum_scratch);
  if (threadIdx.x == 0) {
    counts[blockIdx.x] = count;
    sums[blockIdx.x] = sum;
  }
}

struct RoutingGradients {
  const float* logits;  // null unless sigmoid scores meet a z loss
  const float* d_weights;
  const float* balance_gradient;  // or null
  float z_scale;
};

// A warp per token. A lane reads logits[e] before it writes d_logits[e]: they may be one.
__global__ void __launch_bounds__(threads)
    route_backward(Routing r, RoutingGradients in, float* d_logits_out) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const std::int64_t stride = std::int64_t{gridDim.x} * warps;
  for (std::int64_t token = blockIdx.x * std::int64_t{warps} + threadIdx.x / warp_size;
       token < r.tokens; token += stride) {
    const float* scores = r.scores + token * r.experts;
    const std::int32_t* ids = r.ids + token * r.top_k;
    const float* weights = r.weights + token * r.top_k;
    const float* d_weights = in.d_weights + token * r.top_k;
    const float* balance = in.balance_gradient == nullptr
                               ? nullptr
                               : in.balance_gradient + token / r.segment_tokens * r.experts;
    float* d_logits = d_logits_out + token * r.experts;
    if (ids[0] < 0) {
      for (int e = lane; e < r.experts; e += warp_size) d_logits[e] = 0.0f;
      continue;
    }
    const float lse = r.log_sum_exp[token];
    const float d_lse = 2.0f * in.z_scale * lse;
    float shift = 0.0f, scale = 1.0f;
    if (r.normalize) {
      float chosen = 0.0f;
      for (int j = lane; j < r.top_k; j += warp_size) {
        chosen += scores[ids[j]];
        shift += d_weights[j] * weights[j];
      }
      scale = cuda::reciprocal(cuda::sum_over_warp(chosen));
      shift = cuda::sum_over_warp(shift);
    }
    float balance_shift = 0.0f, balance_scale = 1.0f;
    if (balance != nullptr && !r.softmax) {
      float total = 0.0f;
      for (int e = lane; e < r.experts; e += warp_size) total += scores[e];
      balance_scale = cuda::reciprocal(cuda::sum_over_warp(total));
      for (int e = lane; e < r.experts; e += warp_size) {
        balance_shift += balance[e] * scores[e] * balance_scale;
      }
      balance_shift = cuda::sum_over_warp(balance_shift);
    }
    const auto d_balance = [&](int e) {
      return balance == nullptr ? 0.0f : (balance[e] - balance_shift) * balance_scale;
    };
    const auto d_chosen = [&](int e) {
      float sum = 0.0f;
      for (int j = 0; j < r.top_k; ++j) {
        if (ids[j] == e) sum += (d_weights[j] - shift) * scale;
      }
      return sum;
    };
    if (r.softmax) {
      float mean = 0.0f;
      for (int e = lane; e < r.experts; e += warp_size) {
        mean += scores[e] * (d_balance(e) + d_chosen(e));
      }
      mean = cuda::sum_over_warp(mean);
      for (int e = lane; e < r.experts; e += warp_size) {
        d_logits[e] = scores[e] * (d_balance(e) + d_chosen(e) - mean + d_lse);
      }
    } else {
      for (int e = lane; e < r.experts; e += warp_size) {
        const float of_z =
            in.logits == nullptr ? 0.0f : d_lse * expf(in.logits[token * r.experts + e] - lse);
        const float slope = scores[e] * (1.0f - scores[e]);
        d_logits[e] = (d_balance(e) + d_chosen(e)) * slope + of_z;
      }
    }
  }
}

Routing routing_of(const RouterShape& shape, const RouterState& state) {
  if (shape.experts > most_experts) {
    throw InvalidArgument("router: " + std::to_string(shape.experts) +
                          " experts, allowed on CUDA are " + std::to_string(most_experts));
  }
  return {{static_cast<int>(shape.experts), static_cast<int>(shape.top_k),
           shape.rule.scores == RouterScores::softmax, shape.rule.normalize},
          shape.tokens,
          shape.segment_tokens,
          static_cast<int>(router_chunks(shape)),
          state.scores.data<float>(),
          state.log_sum_exp.data<float>(),
          state.expert_ids.data<std::int32_t>(),
          state.weights.data<float>(),
          static_cast<const std::int32_t*>(shape.document_starts.raw())};
}

}  // namespace

void router_forward(CudaBackend, const RouterShape& shape, const Tensor& logits, const Tensor& bias,
                    RouterState& state, const RouterPartials& partials, Stream& stream) {
  const Routing routing = routing_of(shape, state);
  const cudaStream_t native = cuda::native(stream);
  const std::int64_t chunks = shape.segments * routing.chunks;
  if (chunks == 0) {
    cuda::fill_bytes(state.segment_counts.raw(), 0, state.segment_counts.bytes(), native);
    cuda::fill_bytes(state.segment_probability_sums.raw(), 0,
                     state.segment_probability_sums.bytes(), native);
    return;
  }
  const std::size_t shared =
      static_cast<std::size_t>((warps + 1) * routing.experts) * sizeof(unsigned);
  // The sums of segments of one chunk are its own.
  const bool summed = routing.chunks == 1;
  auto* counts = (summed ? state.segment_counts : partials.counts).data<std::int64_t>();
  auto* sums = (summed ? state.segment_probability_sums : partials.probability_sums).data<double>();
  cuda::launch_early_if_few<&route>(static_cast<unsigned>(chunks), threads, shared, native, routing,
                                    logits.data<float>(),
                                    bias.defined() ? bias.data<float>() : nullptr, counts, sums);
  cuda::check_launch("router_forward");
  if (summed) return;
  add_chunks<<<static_cast<unsigned>(shape.segments * shape.experts), threads, 0, native>>>(
      routing.experts, routing.chunks, counts, sums, state.segment_counts.data<std::int64_t>(),
      state.segment_probability_sums.data<double>());
  cuda::check_launch("router_forward statistics");
}

void router_backward(CudaBackend, const RouterShape& shape, const Tensor& logits,
                     const RouterState& state, const Tensor& d_weights,
                     const Tensor& balance_gradient, double z_scale, Tensor d_logits,
                     Stream& stream) {
  const Routing routing = routing_of(shape, state);
  if (shape.tokens == 0) return;
  const bool use_logits = shape.rule.scores == RouterScores::sigmoid && z_scale != 0.0;
  const RoutingGradients in{use_logits ? logits.data<float>() : nullptr, d_weights.data<float>(),
                            balance_gradient.defined() ? balance_gradient.data<float>() : nullptr,
                            static_cast<float>(z_scale)};
  route_backward<<<cuda::blocks_for(shape.tokens, warps), threads, 0, cuda::native(stream)>>>(
      routing, in, d_logits.data<float>());
  cuda::check_launch("router_backward");
}

}  // namespace polymoe::detail
