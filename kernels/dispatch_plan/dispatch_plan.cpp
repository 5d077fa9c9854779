// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch_plan/dispatch_plan.h"

#include <cstdint>
#include <limits>
#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/dispatch_plan/dispatch_plan_backends.h"
#include "runtime/arena.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

void check_rank(const char* operation, const char* name, const Tensor& tensor, int rank) {
  const std::string where = std::string(operation) + ": " + name;
  if (!tensor.defined()) throw InvalidArgument(where + " is missing");
  if (tensor.shape().rank() != rank) {
    throw InvalidArgument(where + " has shape " + to_string(tensor.shape()) + ", expected " +
                          std::to_string(rank) + " dimensions");
  }
}

void check_capacity(const ExpertCapacity& capacity, std::int64_t tokens) {
  if (capacity.slots < 0) {
    throw InvalidArgument("dispatch_plan: capacity is " + std::to_string(capacity.slots) +
                          " slots, expected at least 0");
  }
  if (capacity.slots == 0 || tokens == 0) return;
  if (capacity.segment_tokens < 1 || tokens % capacity.segment_tokens != 0) {
    throw InvalidArgument("dispatch_plan: segments of " + std::to_string(capacity.segment_tokens) +
                          " tokens do not divide " + std::to_string(tokens) + " tokens");
  }
}

void check_index_range(const char* operation, std::int64_t rows) {
  if (rows > std::numeric_limits<std::int32_t>::max()) {
    throw InvalidArgument(std::string(operation) + ": " + std::to_string(rows) +
                          " rows, expected at most 2147483647; a smaller train.micro_batch has "
                          "fewer");
  }
}

}  // namespace

void dispatch_plan(const Tensor& expert_ids, const Tensor& weights, const ExpertCapacity& capacity,
                   Tensor counts, Tensor row_slots, Tensor slot_rows, Arena& scratch,
                   Stream& stream) {
  const char* operation = "dispatch_plan";
  check_rank(operation, "expert_ids", expert_ids, 2);
  check_rank(operation, "counts", counts, 1);
  const std::int64_t tokens = expert_ids.dim(0), slots = expert_ids.elements();
  const std::int64_t experts = counts.dim(0);
  check_tensors(operation, stream.device(),
                {{"expert_ids", expert_ids, expert_ids.shape(), DType::i32},
                 {"counts", counts, {experts}, DType::i64},
                 {"row_slots", row_slots, {slots}, DType::i32},
                 {"slot_rows", slot_rows, expert_ids.shape(), DType::i32}});
  check_capacity(capacity, tokens);
  check_index_range(operation, slots);
  const bool by_probability = capacity.slots > 0 && capacity.policy == DropPolicy::probability;
  if (by_probability) {
    check_real(operation, "weights", weights, 2);
    check_full_precision(operation, "weights", weights);
    check_tensors(operation, stream.device(),
                  {{"weights", weights, expert_ids.shape(), weights.dtype()}});
  }
  const Arena::Scope scope(scratch);
  detail::DispatchPlanScratch memory;
  memory.chunk_rows = scratch.allocate({detail::dispatch_plan_chunks(slots), experts}, DType::i64);
  if (capacity.slots > 0) {
    const std::int64_t segments = tokens == 0 ? 0 : tokens / capacity.segment_tokens;
    memory.segment_begins = scratch.allocate({segments, experts + 1}, DType::i64);
    if (by_probability) memory.sorted_slots = scratch.allocate({slots}, DType::i32);
  }
  dispatch(stream.device(), [&](auto backend) {
    detail::dispatch_plan(backend, expert_ids, weights, capacity, counts, row_slots, slot_rows,
                          memory, stream);
  });
}

void group_slots(const Tensor& ids, std::int64_t first, Tensor counts, Tensor row_slots,
                 Tensor slot_rows, Arena& scratch, Stream& stream) {
  const char* operation = "group_slots";
  check_rank(operation, "ids", ids, 2);
  check_rank(operation, "counts", counts, 1);
  const std::int64_t slots = ids.elements(), groups = counts.dim(0);
  check_tensors(operation, stream.device(),
                {{"ids", ids, ids.shape(), DType::i32},
                 {"counts", counts, {groups}, DType::i64},
                 {"row_slots", row_slots, {slots}, DType::i32},
                 {"slot_rows", slot_rows, ids.shape(), DType::i32}});
  check_index_range(operation, slots);
  const Arena::Scope scope(scratch);
  detail::DispatchPlanScratch memory;
  memory.chunk_rows = scratch.allocate({detail::dispatch_plan_chunks(slots), groups}, DType::i64);
  dispatch(stream.device(), [&](auto backend) {
    detail::group_slots(backend, ids, first, counts, row_slots, slot_rows, memory, stream);
  });
}

void gather_rows(const Tensor& x, const Tensor& indices, std::int64_t divisor, Tensor out,
                 Stream& stream) {
  gather_rows(x, Tensor(), indices, divisor, out, stream);
}

void gather_rows(const Tensor& x, const Tensor& more, const Tensor& indices, std::int64_t divisor,
                 Tensor out, Stream& stream) {
  const char* operation = "gather_rows";
  check_rank(operation, "indices", indices, 1);
  if (!x.defined() || x.shape().rank() < 1 || x.shape().rank() > 2) {
    throw InvalidArgument("gather_rows: x has shape " + to_string(x.shape()) +
                          ", expected [n, width] or [n]");
  }
  if (size_of(x.dtype()) < 4 && x.dtype() != DType::bf16) {
    throw InvalidArgument(std::string("gather_rows: x is ") + name_of(x.dtype()) +
                          ", expected f32, f64, bf16 or i32");
  }
  if (divisor < 1) {
    throw InvalidArgument("gather_rows: divisor is " + std::to_string(divisor) +
                          ", expected at least 1");
  }
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), x.dtype()},
                 {"indices", indices, indices.shape(), DType::i32},
                 {"out", out, x.shape().with_first(indices.dim(0)), x.dtype()}});
  if (more.defined()) {
    if (more.shape().rank() != x.shape().rank()) {
      throw InvalidArgument("gather_rows: more has shape " + to_string(more.shape()) +
                            " behind x of shape " + to_string(x.shape()));
    }
    check_tensors(operation, stream.device(),
                  {{"more", more, x.shape().with_first(more.dim(0)), x.dtype()}});
  }
  dispatch(stream.device(), [&](auto backend) {
    detail::gather_rows(backend, x, more, indices, divisor, out, stream);
  });
}

void scatter_rows(const Tensor& x, const Tensor& slot_rows, Tensor out, Stream& stream) {
  const char* operation = "scatter_rows";
  check_real(operation, "x", x, 2);
  check_rank(operation, "slot_rows", slot_rows, 2);
  check_rank(operation, "out", out, 2);
  check_tensors(operation, stream.device(),
                {{"x", x, {slot_rows.dim(0), x.dim(1)}, x.dtype()},
                 {"slot_rows", slot_rows, slot_rows.shape(), DType::i32},
                 {"out", out, {out.dim(0), x.dim(1)}, x.dtype()}});
  dispatch(stream.device(),
           [&](auto backend) { detail::scatter_rows(backend, x, slot_rows, out, stream); });
}

void sum_rows(const Tensor& rows, const Tensor& slot_rows, Write write, Tensor y, Stream& stream) {
  const char* operation = "sum_rows";
  check_real(operation, "rows", rows, 2);
  check_rank(operation, "slot_rows", slot_rows, 2);
  check_tensors(operation, stream.device(),
                {{"rows", rows, rows.shape(), rows.dtype()},
                 {"slot_rows", slot_rows, slot_rows.shape(), DType::i32},
                 {"y", y, {slot_rows.dim(0), rows.dim(1)}, rows.dtype()}});
  dispatch(stream.device(),
           [&](auto backend) { detail::sum_rows(backend, rows, slot_rows, write, y, stream); });
}

}  // namespace polymoe
