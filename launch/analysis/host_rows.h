// SPDX-License-Identifier: Apache-2.0
// Rows of a model's tensors as they are looked at: f32 on the host.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/context.h"
#include "runtime/tensor.h"

namespace polymoe {

/// The values of a tensor of the model's dtype.
std::vector<float> host_rows(const Tensor& tensor, ExecutionContext& context);

/// Gives every row of `width` values length one; a row of zeros stays.
void normalize_rows(std::vector<float>& rows, std::int64_t width);

}  // namespace polymoe
