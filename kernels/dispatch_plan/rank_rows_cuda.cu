// SPDX-License-Identifier: Apache-2.0
// A thread per token.
#include "kernels/cuda/launch.cuh"
#include "kernels/dispatch_plan/rank_rows_backends.h"
#include "kernels/dispatch_plan/rank_rows_token.h"
#include "runtime/cuda/check.h"

namespace polymoe::detail {
namespace {

constexpr int threads = 128;

TokenSlots slots_of(const ExpertRanks& ranks, const Tensor& ids) {
  return {.top_k = static_cast<int>(ids.dim(1)),
          .experts_per_rank = static_cast<int>(ranks.experts_per_rank),
          .own = ranks.own,
          .first_expert = static_cast<int>(ranks.first_expert),
          .experts = static_cast<int>(ranks.experts_per_rank * ranks.ranks)};
}

__device__ std::int64_t first_token() { return std::int64_t{blockIdx.x} * threads + threadIdx.x; }

__global__ void __launch_bounds__(threads)
    leaving_ranks_of_tokens(TokenSlots slots, std::int64_t tokens, const std::int32_t* expert_ids,
                            const std::int32_t* slot_rows, std::int32_t* kept_ids,
                            std::int32_t* leaving_ranks) {
  for (std::int64_t t = first_token(); t < tokens; t += std::int64_t{gridDim.x} * threads) {
    const std::int64_t i = t * slots.top_k;
    slots.find_leaving_ranks(expert_ids + i, slot_rows + i, kept_ids + i, leaving_ranks + i);
  }
}

__global__ void __launch_bounds__(threads)
    home_rows_of_tokens(TokenSlots slots, std::int32_t tokens, const std::int32_t* kept_ids,
                        const std::int32_t* leaving_rows, std::int32_t* home_rows,
                        std::int32_t* home_slots) {
  for (std::int64_t t = first_token(); t < tokens; t += std::int64_t{gridDim.x} * threads) {
    const std::int64_t i = t * slots.top_k;
    slots.find_home_rows(static_cast<std::int32_t>(t), tokens, kept_ids + i, leaving_rows + i,
                         home_rows + i, home_slots + i);
  }
}

}  // namespace

void find_leaving_ranks(CudaBackend, const ExpertRanks& ranks, const Tensor& expert_ids,
                        const Tensor& slot_rows, const Tensor& kept_ids,
                        const Tensor& leaving_ranks, Stream& stream) {
  const std::int64_t tokens = expert_ids.dim(0);
  if (tokens == 0) return;
  leaving_ranks_of_tokens<<<cuda::blocks_for(tokens, threads), threads, 0, cuda::native(stream)>>>(
      slots_of(ranks, expert_ids), tokens, expert_ids.data<std::int32_t>(),
      slot_rows.data<std::int32_t>(), kept_ids.data<std::int32_t>(),
      leaving_ranks.data<std::int32_t>());
  cuda::check_launch("leaving_ranks_of_tokens");
}

void find_home_rows(CudaBackend, const ExpertRanks& ranks, const Tensor& kept_ids,
                    const Tensor& leaving_rows, const Tensor& home_rows, const Tensor& home_slots,
                    Stream& stream) {
  const std::int64_t tokens = kept_ids.dim(0);
  if (tokens == 0) return;
  home_rows_of_tokens<<<cuda::blocks_for(tokens, threads), threads, 0, cuda::native(stream)>>>(
      slots_of(ranks, kept_ids), static_cast<std::int32_t>(tokens), kept_ids.data<std::int32_t>(),
      leaving_rows.data<std::int32_t>(), home_rows.data<std::int32_t>(),
      home_slots.data<std::int32_t>());
  cuda::check_launch("home_rows_of_tokens");
}

}  // namespace polymoe::detail
