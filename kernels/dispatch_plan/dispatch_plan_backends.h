// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "kernels/dispatch_plan/dispatch_plan.h"

namespace polymoe::detail {

struct DispatchPlanScratch {
  Tensor chunk_rows;      // [dispatch_plan_chunks(slots), experts] i64
  Tensor segment_begins;  // [segments, experts + 1] i64, with a capacity
  Tensor sorted_slots;    // [tokens * top_k] i32, when dropping by probability
};

/// Most parts that any backend counts the slots in, so that the memory plan is one for all. The
/// plan does not depend on their number.
std::int64_t dispatch_plan_chunks(std::int64_t slots);
/// On a GPU: as many as keep it busy.
std::int64_t dispatch_plan_cuda_chunks(std::int64_t slots);

void dispatch_plan(CpuBackend, const Tensor& expert_ids, const Tensor& weights,
                   const ExpertCapacity& capacity, Tensor counts, Tensor row_slots,
                   Tensor slot_rows, const DispatchPlanScratch& scratch, Stream& stream);
void group_slots(CpuBackend, const Tensor& ids, std::int64_t first, Tensor counts, Tensor row_slots,
                 Tensor slot_rows, const DispatchPlanScratch& scratch, Stream& stream);
void gather_rows(CpuBackend, const Tensor& x, const Tensor& more, const Tensor& indices,
                 std::int64_t divisor, Tensor out, Stream& stream);
void scatter_rows(CpuBackend, const Tensor& x, const Tensor& slot_rows, Tensor out, Stream& stream);
void sum_rows(CpuBackend, const Tensor& rows, const Tensor& slot_rows, Write write, Tensor y,
              Stream& stream);

void dispatch_plan(CudaBackend, const Tensor& expert_ids, const Tensor& weights,
                   const ExpertCapacity& capacity, Tensor counts, Tensor row_slots,
                   Tensor slot_rows, const DispatchPlanScratch& scratch, Stream& stream);
void group_slots(CudaBackend, const Tensor& ids, std::int64_t first, Tensor counts,
                 Tensor row_slots, Tensor slot_rows, const DispatchPlanScratch& scratch,
                 Stream& stream);
void gather_rows(CudaBackend, const Tensor& x, const Tensor& more, const Tensor& indices,
                 std::int64_t divisor, Tensor out, Stream& stream);
void scatter_rows(CudaBackend, const Tensor& x, const Tensor& slot_rows, Tensor out,
                  Stream& stream);
void sum_rows(CudaBackend, const Tensor& rows, const Tensor& slot_rows, Write write, Tensor y,
              Stream& stream);

}  // namespace polymoe::detail
