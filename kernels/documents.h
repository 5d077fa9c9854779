// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "runtime/tensor.h"

namespace polymoe {

/// The documents that the rows of equally long sequences belong to are a tensor
/// `document_starts` [sequences * length] i32: for each row the position, within its sequence, of
/// the first token of its document. Rows that hold no token, behind all others of their sequence,
/// have `no_document`: nothing sees them, no expert gets them. Undefined, every sequence is one
/// document.
constexpr std::int32_t no_document = std::int32_t{1} << 30;

/// Bounds of the documents' lengths in rows, where the host knows them: work for documents that
/// cannot be there may be left out. A row without a document counts as one of one row.
struct DocumentLengths {
  std::int64_t shortest = 1;
  std::int64_t longest = std::numeric_limits<std::int64_t>::max();
};

/// Of document_starts on the host, of sequences of `length` rows each.
DocumentLengths lengths_of_documents(std::span<const std::int32_t> starts, std::int64_t length);

/// Throws InvalidArgument unless starts, where defined, are [rows] i32 on `device`.
void check_documents(const char* operation, const Tensor& starts, std::int64_t rows, Device device);

}  // namespace polymoe
