// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

/// to = from, between any two devices; equal element counts and dtypes. In order on `stream`, which
/// belongs to the GPU side where there is one. Nothing happens where one side is on meta.
/// Host memory written by it may be read after stream.synchronize().
/// Throws InvalidArgument on a mismatch.
void copy(const Tensor& from, Tensor to, Stream& stream);

}  // namespace polymoe
