// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/backend.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

enum class Transpose : bool { no, yes };

/// c (+)= op(a) op(b), op(m) = m or its transpose.
///
/// op(a) [m, k], op(b) [k, n], c [m, n]; c aliases neither. On the CPU f32 or f64, all of one
/// dtype. On CUDA a and b are f32 or bf16, both the same; c is of their dtype, or f32. Sums are
/// f32. An extent of zero is allowed: with k = 0, overwrite gives zeros.
///
/// Asynchronous on `stream`; the CPU backend returns when done, and on CUDA the first product of a
/// shape does (cuBLASLt's candidates are timed, see below). Called inside an OpenMP
/// parallel region, the CPU backend uses the calling thread alone. Throws InvalidArgument on a
/// shape, dtype or device mismatch.
void matmul(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
            Write write, Tensor c, Stream& stream);

/// For work that may be over within seconds: on CUDA candidates are timed only where it lasts
/// longer, and at first all products take cuBLASLt's first proposal. What is computed is the same.
void time_products_late(Stream& stream);

/// While one lives no product on its stream is timed, for work whose many sizes come once: a size
/// that nothing was chosen for takes cuBLASLt's first proposal, and is chosen for when it comes
/// again behind the end. What is computed is the same. Several may live at a time, within the
/// stream's life.
class UntimedProducts {
 public:
  explicit UntimedProducts(Stream& stream);
  ~UntimedProducts();
  UntimedProducts(const UntimedProducts&) = delete;
  UntimedProducts& operator=(const UntimedProducts&) = delete;

 private:
  Stream& stream_;
};

}  // namespace polymoe
