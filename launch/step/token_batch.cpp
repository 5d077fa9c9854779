// SPDX-License-Identifier: Apache-2.0
#include "launch/step/token_batch.h"

#include <utility>
#include <vector>

#include "runtime/copy.h"

namespace polymoe {

TokenBatch make_batch(std::int64_t sequences, std::int64_t length, const FillTokens& fill,
                      ExecutionContext& context) {
  const std::int64_t rows = sequences * length;
  const TokenBatch batch{.tokens = context.arena.allocate({rows}, DType::i32),
                         .targets = context.arena.allocate({rows}, DType::i32),
                         .sequences = sequences,
                         .length = length};
  const Timeline::Scope phase(context.timeline, Phase::data);
  switch (context.stream.device().type) {
    case DeviceType::meta:
      break;
    case DeviceType::cpu:
      fill(batch.tokens.data<std::int32_t>(), batch.targets.data<std::int32_t>());
      break;
    case DeviceType::cuda: {
      std::vector<std::int32_t> host(2 * static_cast<std::size_t>(rows));
      const std::span all(std::as_const(host));
      fill(host.data(), host.data() + rows);
      set_values(all.first(static_cast<std::size_t>(rows)), batch.tokens, context.stream);
      set_values(all.last(static_cast<std::size_t>(rows)), batch.targets, context.stream);
      break;
    }
  }
  return batch;
}

}  // namespace polymoe
