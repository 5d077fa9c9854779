// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/dispatch_plan/dispatch_plan_cpu.h"

namespace polymoe::detail {

void dispatch_plan(CudaBackend, const Tensor& expert_ids, const Tensor& weights,
                   const ExpertCapacity& capacity, Tensor counts, Tensor row_slots,
                   Tensor slot_rows, const DispatchPlanScratch& scratch, Stream& stream);
void regroup_indices(CudaBackend, std::span<const std::int64_t> counts, std::int64_t inner,
                     Tensor indices, Stream& stream);
void gather_rows(CudaBackend, const Tensor& x, const Tensor& indices, std::int64_t divisor,
                 Tensor out, Stream& stream);
void sum_rows(CudaBackend, const Tensor& rows, const Tensor& slot_rows, Write write, Tensor y,
              Stream& stream);

}  // namespace polymoe::detail
