// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "launch/data/token_rows.h"
#include "layers/batch.h"
#include "runtime/context.h"

namespace polymoe {

/// Writes a batch on the host: sequences * length rows.
using FillTokens = std::function<void(const TokenRows& rows)>;

struct BatchExtents {
  std::int64_t sequences = 0;
  std::int64_t length = 0;
  bool documents = false;  // whether it says where they begin
};

/// A batch in the arena, filled on the host and moved to the context's device in the stream's
/// order. On the meta device nothing is filled.
TokenBatch make_batch(const BatchExtents& extents, const FillTokens& fill,
                      ExecutionContext& context);

}  // namespace polymoe
