// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_step.h"

#include <cstdint>
#include <string>

#include "kernels/attention/attention_cuda_scratch.h"
#include "kernels/attention/attention_step_backends.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

constexpr const char* operation = "attention_step";

void check_shape(const AttentionStepShape& shape, Device device) {
  const auto fail = [](const char* field, std::int64_t value, const std::string& expected) {
    throw InvalidArgument(std::string(operation) + ": " + field + " is " + std::to_string(value) +
                          ", expected " + expected);
  };
  if (shape.kv_heads < 1) fail("kv_heads", shape.kv_heads, "at least 1");
  if (shape.heads < 1 || shape.heads % shape.kv_heads != 0)
    fail("heads", shape.heads, "a multiple of kv_heads = " + std::to_string(shape.kv_heads));
  if (shape.head_dim < 2 || shape.head_dim % 2 != 0)
    fail("head_dim", shape.head_dim, "an even number of at least 2");
  if (device.backend() == DeviceType::cuda && shape.head_dim > cuda::most_head_dim)
    fail("head_dim", shape.head_dim, "at most " + std::to_string(cuda::most_head_dim) + " on CUDA");
}

}  // namespace

void attention_step(const AttentionStepShape& shape, const AttentionStepInputs& inputs,
                    const AttentionStepCache& cache, Tensor out, Arena& scratch, Stream& stream) {
  check_shape(shape, stream.device());
  check_real(operation, "keys", cache.keys, 3);
  const DType dtype = cache.keys.dtype();
  const std::int64_t capacity = cache.keys.dim(0);
  const std::int64_t width = shape.heads * shape.head_dim;
  const std::int64_t kv_width = shape.kv_heads * shape.head_dim;
  const Shape cached{capacity, shape.kv_heads, shape.head_dim};
  check_tensors(operation, stream.device(),
                {{"q", inputs.q, {1, width}, dtype},
                 {"k", inputs.k, {1, kv_width}, dtype},
                 {"v", inputs.v, {1, kv_width}, dtype},
                 {"keys", cache.keys, cached, dtype},
                 {"values", cache.values, cached, dtype},
                 {"position", cache.position, {1}, DType::i32},
                 {"tickets", cache.tickets, {shape.heads}, DType::i32},
                 {"out", out, {1, width}, dtype}});
  if (inputs.q_norm.defined() || inputs.k_norm.defined()) {
    check_tensors(
        operation, stream.device(),
        {{"q_norm", inputs.q_norm, {width}, dtype}, {"k_norm", inputs.k_norm, {kv_width}, dtype}});
  }
  const Arena::Scope scope(scratch);
  Tensor partials;
  if (stream.device().backend() == DeviceType::cuda) {
    const std::int64_t spans = divide_up(capacity, detail::attention_step_span);
    partials = scratch.allocate({shape.heads, spans, shape.head_dim + 2}, DType::f32);
  }
  dispatch(stream.device(), [&](auto backend) {
    detail::attention_step(backend, shape, inputs, cache, out, partials, scratch, stream);
  });
}

}  // namespace polymoe
