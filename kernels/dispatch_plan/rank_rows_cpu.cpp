// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch_plan/rank_rows_backends.h"

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/dispatch_plan/rank_rows.h"
#include "kernels/dispatch_plan/rank_rows_token.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {
namespace {

TokenSlots slots_of(const ExpertRanks& ranks, const Tensor& ids) {
  return {.top_k = static_cast<int>(ids.dim(1)),
          .experts_per_rank = static_cast<int>(ranks.experts_per_rank),
          .own = ranks.own,
          .first_expert = static_cast<int>(ranks.first_expert),
          .experts = static_cast<int>(ranks.experts_per_rank * ranks.ranks)};
}

}  // namespace

void find_leaving_ranks(CpuBackend, const ExpertRanks& ranks, const Tensor& expert_ids,
                        const Tensor& slot_rows, const Tensor& kept_ids,
                        const Tensor& leaving_ranks, Stream&) {
  const TokenSlots slots = slots_of(ranks, expert_ids);
  const auto *ids = expert_ids.data<std::int32_t>(), *rows = slot_rows.data<std::int32_t>();
  auto *kept = kept_ids.data<std::int32_t>(), *leaving = leaving_ranks.data<std::int32_t>();
#pragma omp parallel for schedule(static)
  for (std::int64_t t = 0; t < expert_ids.dim(0); ++t) {
    const std::int64_t i = t * slots.top_k;
    slots.find_leaving_ranks(ids + i, rows + i, kept + i, leaving + i);
  }
}

void find_home_rows(CpuBackend, const ExpertRanks& ranks, const Tensor& kept_ids,
                    const Tensor& leaving_rows, const Tensor& home_rows, const Tensor& home_slots,
                    Stream&) {
  const TokenSlots slots = slots_of(ranks, kept_ids);
  const auto *kept = kept_ids.data<std::int32_t>(), *leaving = leaving_rows.data<std::int32_t>();
  auto *to_rows = home_rows.data<std::int32_t>(), *to_slots = home_slots.data<std::int32_t>();
  const auto tokens = static_cast<std::int32_t>(kept_ids.dim(0));
#pragma omp parallel for schedule(static)
  for (std::int32_t t = 0; t < tokens; ++t) {
    const std::int64_t i = std::int64_t{t} * slots.top_k;
    slots.find_home_rows(t, tokens, kept + i, leaving + i, to_rows + i, to_slots + i);
  }
}

}  // namespace polymoe::detail
