// SPDX-License-Identifier: Apache-2.0
// Products of one row, for the operations that are made of them: bound by reading the weights.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::cuda {

/// y = residual + row weight^T of one row, x [k] or its norm, for up to four weights [outputs, k].
/// input is f32 or bf16; output f32, or bf16 with bf16 inputs. Sums are f32, in one order whatever
/// lies beside a product.
struct RowProducts {
  static constexpr int most = 4;
  struct Part {
    const void* weight;
    void* y;               // [outputs]
    const void* residual;  // [outputs] or null
    std::int64_t outputs;
  };
  const void* x;
  const void* scale = nullptr;  // [k]: of the norm; null without one
  float epsilon = 0.0F;
  std::int64_t k;
  DType input, output;
  std::array<Part, most> parts;
  int count;
};
/// Whether multiply_row() forms the norm itself; else x has to be the normed row.
bool norms_in_product(const RowProducts& products);
void multiply_row(const RowProducts& products, Stream& stream);

}  // namespace polymoe::cuda
