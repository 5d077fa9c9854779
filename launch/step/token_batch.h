// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "layers/batch.h"
#include "runtime/context.h"

namespace polymoe {

/// Writes a batch on the host: sequences * length tokens and as many targets, -1 where nothing is
/// predicted.
using FillTokens = std::function<void(std::int32_t* tokens, std::int32_t* targets)>;

/// A batch in the arena, filled on the host and moved to the context's device in the stream's
/// order. On the meta device nothing is filled.
TokenBatch make_batch(std::int64_t sequences, std::int64_t length, const FillTokens& fill,
                      ExecutionContext& context);

}  // namespace polymoe
