// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/embedding/embedding.h"
#include "kernels/embedding/embedding_scratch.h"

namespace polymoe::detail {

void embedding_forward(CpuBackend, const Tensor& tokens, const Tensor& table, Tensor y,
                       Stream& stream);

/// Needs no scratch.
void embedding_backward(CpuBackend, const Tensor& tokens, const Tensor& d_y, Tensor d_table,
                        const EmbeddingScratch& scratch, Stream& stream);

}  // namespace polymoe::detail
