// SPDX-License-Identifier: Apache-2.0
// Products of one row, for the operations that are made of them: bound by reading the weights.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::cuda {

/// y = x weight^T of one row x [k], for up to four weights [outputs, k]. input is f32 or bf16; output
/// f32, or bf16 with bf16 inputs. Sums are f32, in one order whatever lies beside a product.
struct RowProducts {
  static constexpr int most = 4;
  struct Part {
    const void* weight;
    void* y;  // [outputs]
    std::int64_t outputs;
  };
  const void* x;
  std::int64_t k;
  DType input, output;
  std::array<Part, most> parts;
  int count;
};
void multiply_row(const RowProducts& products, Stream& stream);

/// Matrices of experts, of which a token meets some, known to the device alone.
struct ChosenMatrices {
  const void* weights;         // [experts, outputs, k]
  const std::int32_t* chosen;  // [count], each in [0, experts)
  std::int64_t count, outputs, k;
  DType dtype;
};
/// y[j] = weights[chosen[j]] x: x [k], y [count, outputs].
void multiply_by_chosen(const ChosenMatrices& matrices, const void* x, void* y, Stream& stream);
/// y (+)= sum over j of weights[chosen[j]] x[j], rounded once: x [count, k], y [outputs].
void add_chosen_products(const ChosenMatrices& matrices, const void* x, bool accumulate, void* y,
                         Stream& stream);

}  // namespace polymoe::cuda
