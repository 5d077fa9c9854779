// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul/matmul.h"

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/matmul/matmul_backends.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void matmul(const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
            Write write, Tensor c, Stream& stream) {
  if (!a.defined() || a.shape().rank() != 2) {
    throw InvalidArgument("matmul: a has shape " + to_string(a.shape()) + ", expected a matrix");
  }
  if (!c.defined() || c.shape().rank() != 2) {
    throw InvalidArgument("matmul: c has shape " + to_string(c.shape()) + ", expected a matrix");
  }
  const bool on_cuda = stream.device().type == DeviceType::cuda;
  const bool on_cpu = stream.device().type == DeviceType::cpu;
  if (!(a.dtype() == DType::f32 || (a.dtype() == DType::f64 && !on_cuda) ||
        (a.dtype() == DType::bf16 && !on_cpu))) {
    throw InvalidArgument(std::string("matmul: a is ") + name_of(a.dtype()) + " on " +
                          name_of(stream.device()) +
                          ", expected f32, f64 on the CPU, or bf16 on CUDA");
  }
  const bool sums_kept = a.dtype() == DType::bf16 && c.dtype() == DType::f32;
  const std::int64_t m = c.dim(0), n = c.dim(1);
  const std::int64_t k = a.dim(transpose_a == Transpose::yes ? 0 : 1);
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  check_tensors("matmul", stream.device(),
                {{"a", a, ta ? Shape{k, m} : Shape{m, k}, a.dtype()},
                 {"b", b, tb ? Shape{n, k} : Shape{k, n}, a.dtype()},
                 {"c", c, Shape{m, n}, sums_kept ? DType::f32 : a.dtype()}});
  dispatch(stream.device(), [&](auto backend) {
    detail::matmul(backend, a, transpose_a, b, transpose_b, write, c, stream);
  });
}

void time_products_late(Stream& stream) {
  dispatch(stream.device(), [&](auto backend) { detail::time_products_late(backend, stream); });
}

UntimedProducts::UntimedProducts(Stream& stream) : stream_(stream) {
  dispatch(stream.device(), [&](auto backend) { detail::forbid_timing_products(backend, stream); });
}

UntimedProducts::~UntimedProducts() {
  // The stream has what this asks for since the constructor: nothing throws.
  dispatch(stream_.device(),
           [&](auto backend) { detail::permit_timing_products(backend, stream_); });
}

}  // namespace polymoe
