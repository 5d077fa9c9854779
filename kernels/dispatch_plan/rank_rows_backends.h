// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/dispatch_plan/rank_rows.h"

namespace polymoe::detail {

void find_leaving_ranks(CpuBackend, const ExpertRanks& ranks, const Tensor& expert_ids,
                        const Tensor& slot_rows, const Tensor& kept_ids,
                        const Tensor& leaving_ranks, Stream& stream);
void find_leaving_ranks(CudaBackend, const ExpertRanks& ranks, const Tensor& expert_ids,
                        const Tensor& slot_rows, const Tensor& kept_ids,
                        const Tensor& leaving_ranks, Stream& stream);
void find_home_rows(CpuBackend, const ExpertRanks& ranks, const Tensor& kept_ids,
                    const Tensor& leaving_rows, const Tensor& home_rows, const Tensor& home_slots,
                    Stream& stream);
void find_home_rows(CudaBackend, const ExpertRanks& ranks, const Tensor& kept_ids,
                    const Tensor& leaving_rows, const Tensor& home_rows, const Tensor& home_slots,
                    Stream& stream);

}  // namespace polymoe::detail
