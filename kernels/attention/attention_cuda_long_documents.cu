// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_cuda_long_documents.h"

#include "kernels/attention/attention_cuda_tiles.cuh"
#include "kernels/cuda/launch.cuh"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

constexpr int plan_threads = 256;

struct TablePointers {
  std::int64_t longest, places;  // of a window
  std::int32_t* lengths;
  std::int64_t *query_offsets, *key_offsets, *row_offsets;
};

struct PlanPointers {
  const std::int32_t* document_starts;
  std::int32_t* short_starts;
  TablePointers calls[long_document_calls];
};

// An entry of a table: a document that begins at `row` of a window.
__device__ void write_entry(const TablePointers& table, const AttentionSizes& sizes,
                            std::int64_t sequence, std::int64_t place, std::int64_t row) {
  const std::int64_t of_all = sequence * sizes.query_length + row;
  table.query_offsets[place] = of_all * sizes.query_stride;
  table.key_offsets[place] = of_all * sizes.key_stride;
  // log_sum_exp has the heads of a window one behind the other.
  table.row_offsets[place] = sequence * sizes.heads * sizes.query_length + row;
}

// A block per window.
__global__ void __launch_bounds__(plan_threads)
    plan_documents(AttentionSizes sizes, PlanPointers plan) {
  __shared__ LongDocumentRows shared;
  const std::int64_t sequence = blockIdx.x, window = sizes.query_length;
  const std::int32_t* const starts = plan.document_starts + sequence * window;
  if (threadIdx.x == 0) {
    shared = find_long_documents(starts, static_cast<std::int32_t>(window));
    std::int64_t shorter = 0;
    for (const TablePointers& table : plan.calls) {
      std::int64_t place = sequence * table.places;
      const std::int64_t end = place + table.places;
      for (int d = 0; d < shared.count; ++d) {
        const std::int64_t length = shared.end[d] - shared.begin[d];
        if (length <= shorter || length > table.longest) continue;
        table.lengths[place] = static_cast<std::int32_t>(length);
        write_entry(table, sizes, sequence, place++, shared.begin[d]);
      }
      for (; place < end; ++place) {
        table.lengths[place] = 0;
        write_entry(table, sizes, sequence, place, window);
      }
      if (sequence + 1 == gridDim.x) write_entry(table, sizes, sequence + 1, end, 0);
      shorter = table.longest;
    }
  }
  __syncthreads();
  for (int row = static_cast<int>(threadIdx.x); row < window; row += plan_threads) {
    bool is_long = false;
    for (int d = 0; d < shared.count; ++d) is_long |= row >= shared.begin[d] && row < shared.end[d];
    plan.short_starts[sequence * window + row] = is_long ? of_other_kernels : starts[row];
  }
}

// The tensors of a plan, one behind the other.
class Places {
 public:
  explicit Places(const Tensor& memory) : memory_(memory) {}

  Tensor next(std::int64_t elements, DType dtype) {
    const Tensor tensor(static_cast<std::byte*>(memory_.raw()) + at_, {elements}, dtype,
                        memory_.device());
    at_ += round_up(tensor.bytes(), std::size_t{16});
    return tensor;
  }

 private:
  const Tensor& memory_;
  std::size_t at_ = 0;
};

}  // namespace

LongDocumentPlan plan_long_documents(const AttentionShape& shape, const Tensor& memory,
                                     Stream& stream) {
  Places places(memory);
  LongDocumentPlan plan;
  plan.short_starts = places.next(shape.batch * shape.query_length, DType::i32);
  PlanPointers pointers{
      shape.document_starts.data<std::int32_t>(), plan.short_starts.data<std::int32_t>(), {}};
  const DocumentLengths& lengths = shape.document_lengths;
  std::int64_t shorter = short_document(shape.query_length);
  plan.some_short = lengths.shortest <= shorter;
  const auto calls = long_documents_of(shape.query_length);
  for (std::size_t c = 0; c < calls.size(); ++c) {
    const std::int64_t documents = shape.batch * calls[c].places;
    plan.some[c] = lengths.longest > shorter && lengths.shortest <= calls[c].length;
    shorter = calls[c].length;
    LongDocumentTables& table = plan.tables[c];
    table.lengths = places.next(documents, DType::i32);
    for (Tensor* const offsets : {&table.query_offsets, &table.key_offsets, &table.row_offsets})
      *offsets = places.next(documents + 1, DType::i64);
    pointers.calls[c] = {calls[c].length,
                         calls[c].places,
                         table.lengths.data<std::int32_t>(),
                         table.query_offsets.data<std::int64_t>(),
                         table.key_offsets.data<std::int64_t>(),
                         table.row_offsets.data<std::int64_t>()};
  }
  plan_documents<<<static_cast<unsigned>(shape.batch), plan_threads, 0, native(stream)>>>(
      AttentionSizes(shape), pointers);
  check_launch("attention within documents");
  return plan;
}

}  // namespace polymoe::cuda
