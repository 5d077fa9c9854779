// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/feed_forward/feed_forward.h"
#include "kernels/feed_forward/feed_forward_step.h"
#include "kernels/feed_forward/feed_forward_step_backends.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/router/router.h"
#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {
namespace {

/// The token's rows by expert, as the grouped feed-forward takes them.
struct RowsByExpert {
  RowsByExpert(const std::int32_t* ids, std::size_t count, std::size_t experts)
      : slots(count), rows(count), offsets(experts + 1, 0) {
    std::iota(slots.begin(), slots.end(), std::size_t{0});
    std::sort(slots.begin(), slots.end(),
              [&](std::size_t a, std::size_t b) { return ids[a] < ids[b]; });
    for (std::size_t row = 0; row < count; ++row) {
      rows[slots[row]] = row;
      ++offsets[static_cast<std::size_t>(ids[row]) + 1];
    }
    std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  }

  std::vector<std::size_t> slots;  // of each row
  std::vector<std::size_t> rows;   // of each slot
  ExpertOffsets offsets;
};

/// Copies of the row, and their weights, for every chosen expert.
template <class T>
ExpertOffsets spread(const FeedForwardStep& call, const Tensor& row, FeedForwardStepScratch& parts,
                     std::vector<std::size_t>& rows) {
  const auto count = static_cast<std::size_t>(call.choice->top_k);
  const auto hidden = static_cast<std::size_t>(row.dim(1));
  RowsByExpert order(parts.routing.expert_ids.data<std::int32_t>(), count,
                     static_cast<std::size_t>(call.weights.down.dim(0)));
  for (std::size_t i = 0; i < count; ++i) {
    std::copy_n(row.data<T>(), hidden, parts.x.data<T>() + i * hidden);
    parts.row_weights.data<T>()[i] = parts.routing.weights.data<T>()[order.slots[i]];
  }
  rows = order.rows;
  return order.offsets;
}

}  // namespace

void feed_forward_step(CpuBackend, const FeedForwardStep& call, FeedForwardStepScratch& parts,
                       Arena& scratch, Stream& stream) {
  Tensor row = call.input.x;
  if (call.input.scale.defined()) {
    rms_norm_forward(row, call.input.scale, call.input.epsilon, parts.normed.y,
                     parts.normed.inv_rms, stream);
    row = parts.normed.y;
  }
  const ExpertChoice* choice = call.choice;
  if (choice != nullptr)
    router_forward(parts.shape, choice->logits, choice->bias, parts.routing, scratch, stream);
  const auto hidden = static_cast<std::size_t>(row.dim(1));
  cpu::with_real(row.dtype(), [&]<class T>(T) {
    ExpertOffsets offsets = {0, 1};
    std::vector<std::size_t> rows = {0};
    if (choice != nullptr) offsets = spread<T>(call, row, parts, rows);
    feed_forward_forward(call.activation, call.weights, choice != nullptr ? parts.x : row, offsets,
                         parts.row_weights, parts.pre, parts.results, scratch, stream);
    const T* const results = parts.results.data<T>();
    const T* const residual = call.residual.data<T>();
    T* const y = call.y.data<T>();
    for (std::size_t i = 0; i < hidden; ++i) {
      T sum = residual[i];
      for (const std::size_t of_slot : rows) sum += results[of_slot * hidden + i];
      y[i] = sum;
    }
  });
}

}  // namespace polymoe::detail
