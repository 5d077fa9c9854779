// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "runtime/arena.h"
#include "runtime/tensor.h"

namespace polymoe {

/// result[0] = sum of the elements, in f64 and a fixed order. result [1] f64. x: f32 or
/// f64 on the CPU, f32 or bf16 on CUDA, as in all of these.
void sum(const Tensor& x, Tensor result, Arena& scratch, Stream& stream);

/// result[0] = sum of the squares of the elements, in f64 and a fixed order.
void sum_of_squares(const Tensor& x, Tensor result, Arena& scratch, Stream& stream);

/// y += x. Equal shapes; y of x's dtype, or on CUDA bf16 beside f32: rounded once.
void add(const Tensor& x, Tensor y, Stream& stream);

/// y = value everywhere.
void fill(double value, Tensor y, Stream& stream);

}  // namespace polymoe
