// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/embedding/embedding_backends.h"
#include "runtime/stream.h"

namespace polymoe::cuda {

/// Ids in ascending order, equal ones in the order of their positions.
struct TokenOrder {
  const std::int32_t* ids;        // [rows]; `vocab` in the place of every id out of range
  const std::int32_t* positions;  // [rows]
};

/// Sorts tokens [rows], 0 < rows, into memory of `scratch`: eight bits of the ids at a time, from
/// the lowest, each pass stable. Two launches per pass, asynchronous.
TokenOrder order_tokens(const Tensor& tokens, std::int64_t vocab,
                        const detail::EmbeddingScratch& scratch, Stream& stream);

}  // namespace polymoe::cuda
