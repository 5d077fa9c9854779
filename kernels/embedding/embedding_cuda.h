// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/embedding/embedding.h"
#include "kernels/embedding/embedding_scratch.h"

namespace polymoe::detail {

void embedding_forward(CudaBackend, const Tensor& tokens, const Tensor& table, Tensor y,
                       Stream& stream);

void embedding_backward(CudaBackend, const Tensor& tokens, const Tensor& d_y, Tensor d_table,
                        const EmbeddingScratch& scratch, Stream& stream);

}  // namespace polymoe::detail
