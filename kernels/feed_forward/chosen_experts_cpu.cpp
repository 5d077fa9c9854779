// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/feed_forward/chosen_experts_backends.h"
#include "kernels/feed_forward/feed_forward.h"
#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {

void chosen_experts_forward(CpuBackend, const ChosenExperts& call,
                            const ChosenExpertsScratch& parts, Arena& scratch, Stream& stream) {
  const auto top_k = static_cast<std::size_t>(call.expert_ids.dim(1));
  const auto hidden = static_cast<std::size_t>(call.x.dim(1));
  const auto* const ids = call.expert_ids.data<std::int32_t>();
  // The token's rows by expert, as the grouped feed-forward takes them.
  std::vector<std::size_t> slots(top_k), rows(top_k);
  std::iota(slots.begin(), slots.end(), std::size_t{0});
  std::sort(slots.begin(), slots.end(),
            [&](std::size_t a, std::size_t b) { return ids[a] < ids[b]; });
  ExpertOffsets offsets(static_cast<std::size_t>(call.weights.down.dim(0)) + 1, 0);
  for (std::size_t slot = 0; slot < top_k; ++slot)
    ++offsets[static_cast<std::size_t>(ids[slot]) + 1];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  cpu::with_real(call.x.dtype(), [&]<class T>(T) {
    for (std::size_t row = 0; row < top_k; ++row) {
      rows[slots[row]] = row;
      std::copy_n(call.x.data<T>(), hidden, parts.x.data<T>() + row * hidden);
      parts.row_weights.data<T>()[row] = call.row_weights.data<T>()[slots[row]];
    }
    feed_forward_forward(call.activation, call.weights, parts.x, offsets, parts.row_weights,
                         parts.pre, parts.results, scratch, stream);
    T* const y = call.y.data<T>();
    const T* const results = parts.results.data<T>();
    for (std::size_t i = 0; i < hidden; ++i) {
      T sum = call.write == Write::accumulate ? y[i] : T{0};
      for (const std::size_t row : rows) sum += results[row * hidden + i];
      y[i] = sum;
    }
  });
}

}  // namespace polymoe::detail
