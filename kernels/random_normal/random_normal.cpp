// SPDX-License-Identifier: Apache-2.0
#include "kernels/random_normal/random_normal.h"

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/random_normal/random_normal_backends.h"
#include "runtime/dtype.h"
#include "runtime/random.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void random_normal(const RandomStream& random, const NormalDraw& draw, Tensor y, Stream& stream) {
  if (y.defined() && y.dtype() != DType::bf16) {
    check_real("random_normal", "y", y, y.shape().rank());
  }
  check_tensors("random_normal", stream.device(), {{"y", y, y.shape(), y.dtype()}});
  dispatch(stream.device(),
           [&](auto backend) { detail::random_normal(backend, random, draw, y, stream); });
}

}  // namespace polymoe
