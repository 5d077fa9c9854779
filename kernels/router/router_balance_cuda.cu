// SPDX-License-Identifier: Apache-2.0
#include "kernels/router/router_balance_backends.h"

#include <numeric>

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::detail {
namespace {

constexpr int threads = 1024;
constexpr int warps = threads / cuda::warp_size;

struct LossArguments {
  const std::int64_t* counts;
  const double* probability_sums;
  const float* log_sum_exp;
  std::int64_t segments, tokens;
  int experts;
  double slope_scale;  // balance_scale * experts * top_k
  double z_scale;
};

// One block: the sums are small, and have one order.
__global__ void __launch_bounds__(threads)
    add_losses(LossArguments in, double* losses, float* gradient) {
  __shared__ std::int64_t count_scratch[warps];
  __shared__ double sum_scratch[warps];
  double balance = 0.0;
  for (std::int64_t s = 0; s < in.segments; ++s) {
    std::int64_t slots = 0;
    for (int e = static_cast<int>(threadIdx.x); e < in.experts; e += threads) {
      slots += in.counts[s * in.experts + e];
    }
    slots = cuda::sum_over_block(slots, count_scratch);
    const double scale =
        slots == 0 ? 0.0
                   : in.slope_scale / (static_cast<double>(slots) * static_cast<double>(slots));
    for (int e = static_cast<int>(threadIdx.x); e < in.experts; e += threads) {
      const std::int64_t i = s * in.experts + e;
      const double slope = scale * static_cast<double>(in.counts[i]);
      balance += slope * in.probability_sums[i];
      gradient[i] = static_cast<float>(slope);
    }
  }
  balance = cuda::sum_over_block(balance, sum_scratch);
  double squares = 0.0;
  for (std::int64_t t = threadIdx.x; t < in.tokens; t += threads) {
    const auto value = static_cast<double>(in.log_sum_exp[t]);
    squares += value * value;
  }
  squares = cuda::sum_over_block(squares, sum_scratch);
  if (threadIdx.x == 0) {
    losses[0] += balance;
    losses[1] += in.z_scale * squares;
  }
}

__global__ void __launch_bounds__(threads)
    add_slots(const std::int64_t* routed, const std::int64_t* kept, std::int64_t segments,
              int experts, std::int64_t* totals) {
  __shared__ std::int64_t scratch[warps];
  std::int64_t dropped = 0;
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += threads) {
    std::int64_t sum = 0;
    for (std::int64_t s = 0; s < segments; ++s) sum += routed[s * experts + e];
    totals[e] += sum;
    dropped += sum - kept[e];
  }
  dropped = cuda::sum_over_block(dropped, scratch);
  if (threadIdx.x == 0) totals[experts] += dropped;
}

// The steps of some experts' biases, which travel with the launch: -1, 0, 1.
struct Steps {
  static constexpr int most = 2048;
  signed char sign[most];
};

__global__ void move_bias(Steps steps, int experts, float rate, float* bias) {
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x)) {
    bias[e] += rate * static_cast<float>(steps.sign[e]);
  }
}

}  // namespace

void router_losses(CudaBackend, const RouterLossInputs& inputs, Tensor losses,
                   Tensor balance_gradient, Stream& stream) {
  const std::int64_t experts = balance_gradient.dim(1);
  const LossArguments in{
      inputs.counts.data<std::int64_t>(),
      inputs.probability_sums.data<double>(),
      inputs.log_sum_exp.data<float>(),
      balance_gradient.dim(0),
      inputs.log_sum_exp.dim(0),
      static_cast<int>(experts),
      inputs.balance_scale * static_cast<double>(experts) * static_cast<double>(inputs.top_k),
      inputs.z_scale};
  add_losses<<<1, threads, 0, cuda::native(stream)>>>(in, losses.data<double>(),
                                                      balance_gradient.data<float>());
  cuda::check_launch("router_losses");
}

void count_slots(CudaBackend, const Tensor& segment_counts, const Tensor& kept_counts,
                 Tensor totals, Stream& stream) {
  add_slots<<<1, threads, 0, cuda::native(stream)>>>(
      segment_counts.data<std::int64_t>(), kept_counts.data<std::int64_t>(), segment_counts.dim(0),
      static_cast<int>(segment_counts.dim(1)), totals.data<std::int64_t>());
  cuda::check_launch("count_slots");
}

void move_router_bias(CudaBackend, std::span<const std::int64_t> counts, double rate, Tensor bias,
                      Stream& stream) {
  const std::int64_t total = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  const auto experts = static_cast<std::int64_t>(counts.size());
  for (std::int64_t first = 0; first < experts; first += Steps::most) {
    const auto here = static_cast<int>(std::min<std::int64_t>(experts - first, Steps::most));
    Steps steps;
    for (int e = 0; e < here; ++e) {
      const std::int64_t load = counts[static_cast<std::size_t>(first + e)] * experts;
      steps.sign[e] = static_cast<signed char>(load < total ? 1 : load > total ? -1 : 0);
    }
    move_bias<<<1, 256, 0, cuda::native(stream)>>>(steps, here, static_cast<float>(rate),
                                                   bias.data<float>() + first);
    cuda::check_launch("move_router_bias");
  }
}

}  // namespace polymoe::detail
