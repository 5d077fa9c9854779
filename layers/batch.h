// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "kernels/documents.h"
#include "runtime/tensor.h"

namespace polymoe {

/// The global batch that one optimizer step sums over: every mean in the loss divides by these, no
/// group's size ever does.
struct GlobalBatch {
  std::int64_t tokens = 0;  // predicted ones
  std::int64_t sequences = 0;
  std::int64_t micro_batches = 0;  // over all ranks
  std::int64_t padding = 0;        // rows that hold no token
};

/// How the rows of an activation [sequences * length, hidden] form sequences. Zero sequences are
/// allowed: the rank still joins every collective.
struct BatchLayout {
  std::int64_t sequences = 0;
  std::int64_t length = 0;
  GlobalBatch global;
  Tensor document_starts = {};  // [rows] i32, see kernels/documents.h
  DocumentLengths document_lengths = {};
  std::int64_t rows() const { return sequences * length; }
};

/// Sequences of equal length, one behind the other.
struct TokenBatch {
  Tensor tokens;   // [sequences * length] i32
  Tensor targets;  // [sequences * length] i32; -1 = not predicted
  std::int64_t sequences = 0;
  std::int64_t length = 0;
  /// [sequences * length] i32: attention and positions keep to documents, and rows without one are
  /// padding, which no loss and no statistic counts (kernels/documents.h). Undefined = one document
  /// a sequence.
  Tensor document_starts = {};
  DocumentLengths document_lengths = {};
};

}  // namespace polymoe
