// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "runtime/tensor.h"

namespace polymoe {

/// The documents that the rows of equally long sequences belong to are a tensor
/// `document_starts` [sequences * length] i32: for each row the position, within its sequence, of
/// the first token of its document. Rows that hold no token, behind all others of their sequence,
/// have `no_document`: nothing sees them, no expert gets them. Undefined, every sequence is one
/// document.
constexpr std::int32_t no_document = std::int32_t{1} << 30;

/// Throws InvalidArgument unless starts, where defined, are [rows] i32 on `device`.
void check_documents(const char* operation, const Tensor& starts, std::int64_t rows, Device device);

}  // namespace polymoe
