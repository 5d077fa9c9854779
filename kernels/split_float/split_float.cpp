// SPDX-License-Identifier: Apache-2.0
#include "kernels/split_float/split_float.h"

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/split_float/split_float_backends.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void split_floats(const Tensor& x, Tensor high, Tensor low, Stream& stream) {
  const auto flatten = [](const Tensor& tensor) {
    return tensor.defined() ? tensor.view({tensor.elements()}) : tensor;
  };
  const Tensor from = flatten(x), upper = flatten(high), lower = flatten(low);
  const Shape flat{x.elements()};
  check_tensors("split_floats", stream.device(),
                {{"x", from, flat, DType::f32}, {"high", upper, flat, DType::bf16}});
  if (lower.defined())
    check_tensors("split_floats", stream.device(), {{"low", lower, flat, DType::u16}});
  if (from.elements() == 0) return;
  dispatch(stream.device(),
           [&](auto backend) { detail::split_floats(backend, from, upper, lower, stream); });
}

}  // namespace polymoe
