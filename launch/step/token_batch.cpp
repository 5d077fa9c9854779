// SPDX-License-Identifier: Apache-2.0
#include "launch/step/token_batch.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/documents.h"
#include "launch/data/token_rows.h"
#include "layers/batch.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/timeline.h"

namespace polymoe {

TokenBatch make_batch(const BatchExtents& extents, const FillTokens& fill,
                      ExecutionContext& context) {
  const std::int64_t rows = extents.sequences * extents.length;
  const auto allocate = [&] { return context.arena.allocate({rows}, DType::i32); };
  TokenBatch batch{.tokens = allocate(),
                   .targets = allocate(),
                   .sequences = extents.sequences,
                   .length = extents.length};
  if (extents.documents) batch.document_starts = allocate();
  const Timeline::Scope phase(context.timeline, Phase::data);
  switch (context.stream.device().type) {
    case DeviceType::meta:
      break;
    case DeviceType::cpu:
      fill({.tokens = batch.tokens.data<std::int32_t>(),
            .targets = batch.targets.data<std::int32_t>(),
            .document_starts = static_cast<std::int32_t*>(batch.document_starts.raw())});
      break;
    case DeviceType::cuda: {
      std::vector<std::int32_t> host(3 * static_cast<std::size_t>(rows));
      const TokenRows to{.tokens = host.data(),
                         .targets = host.data() + rows,
                         .document_starts = extents.documents ? host.data() + 2 * rows : nullptr};
      fill(to);
      const auto move = [&](const std::int32_t* from, const Tensor& there) {
        set_values(std::span(from, static_cast<std::size_t>(rows)), there, context.stream);
      };
      move(to.tokens, batch.tokens);
      move(to.targets, batch.targets);
      if (extents.documents) {
        move(to.document_starts, batch.document_starts);
        batch.document_lengths = lengths_of_documents(
            {to.document_starts, static_cast<std::size_t>(rows)}, extents.length);
      }
      break;
    }
  }
  return batch;
}

}  // namespace polymoe
