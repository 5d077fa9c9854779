// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention.h"

#include <cstdint>
#include <string>

#include "kernels/attention/attention_backends.h"
#include "kernels/attention/attention_cuda_scratch.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/documents.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

void check_shape(const char* operation, const AttentionShape& shape, Device device) {
  const auto fail = [&](const char* field, std::int64_t value, const std::string& expected) {
    throw InvalidArgument(std::string(operation) + ": " + field + " is " + std::to_string(value) +
                          ", expected " + expected);
  };
  if (shape.batch < 0) fail("batch", shape.batch, "at least 0");
  if (shape.query_length < 0) fail("query_length", shape.query_length, "at least 0");
  if (shape.key_length < shape.query_length) {
    fail("key_length", shape.key_length,
         "at least query_length = " + std::to_string(shape.query_length));
  }
  if (shape.kv_heads < 1) fail("kv_heads", shape.kv_heads, "at least 1");
  if (shape.heads < 1 || shape.heads % shape.kv_heads != 0) {
    fail("heads", shape.heads, "a multiple of kv_heads = " + std::to_string(shape.kv_heads));
  }
  if (shape.head_dim < 1) fail("head_dim", shape.head_dim, "at least 1");
  if (device.backend() == DeviceType::cuda && shape.head_dim > cuda::most_head_dim) {
    fail("head_dim", shape.head_dim, "at most " + std::to_string(cuda::most_head_dim) + " on CUDA");
  }
  check_documents(operation, shape.document_starts, shape.batch * shape.query_length, device);
  if (shape.document_starts.defined() && shape.key_length != shape.query_length) {
    fail("key_length", shape.key_length,
         "query_length = " + std::to_string(shape.query_length) + " where there are documents");
  }
}

Shape query_shape(const AttentionShape& shape) {
  return {shape.batch * shape.query_length, shape.heads, shape.head_dim};
}
Shape key_shape(const AttentionShape& shape) {
  return {shape.batch * shape.key_length, shape.kv_heads, shape.head_dim};
}
Shape row_shape(const AttentionShape& shape) {
  return {shape.batch, shape.heads, shape.query_length};
}

Tensor bytes_of(std::int64_t count, Arena& scratch) { return scratch.allocate({count}, DType::u8); }

detail::AttentionForwardScratch allocate_forward_scratch(const AttentionShape& shape, DType dtype,
                                                         Device device, Arena& scratch) {
  if (device.backend() != DeviceType::cuda)
    return {cpu::allocate_attention_forward_tiles(shape, dtype, scratch), {}};
  detail::AttentionForwardScratch parts;
  const bool documents = cuda::cudnn_serves_long_documents(shape, dtype);
  if (documents) parts.documents = bytes_of(cuda::long_document_plan_bytes(shape), scratch);
  if (documents || cuda::cudnn_serves(shape, dtype))
    parts.tiles = bytes_of(cuda::forward_workspace_bytes(shape), scratch);
  return parts;
}

detail::AttentionBackwardScratch allocate_backward_scratch(const AttentionShape& shape, DType dtype,
                                                           Device device, Arena& scratch) {
  if (device.backend() != DeviceType::cuda) {
    return cpu::allocate_attention_backward_scratch(shape, dtype, scratch);
  }
  detail::AttentionBackwardScratch parts;
  if (cuda::cudnn_serves(shape, dtype)) {
    parts.tiles = bytes_of(cuda::backward_workspace_bytes(shape), scratch);
  } else {
    parts.output_dots = scratch.allocate(row_shape(shape), DType::f32);
  }
  if (cuda::cudnn_serves_long_documents(shape, dtype)) {
    parts.documents = bytes_of(cuda::long_document_plan_bytes(shape), scratch);
    parts.tiles = bytes_of(cuda::backward_workspace_bytes_of_documents(shape), scratch);
  }
  return parts;
}

}  // namespace

void attention_forward(const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp, Arena& scratch,
                       Stream& stream) {
  const char* const operation = "attention_forward";
  check_shape(operation, shape, stream.device());
  check_real(operation, "q", q, 3);
  const DType dtype = q.dtype();
  check_tensors(operation, stream.device(),
                {{"q", q, query_shape(shape), dtype},
                 {"k", k, key_shape(shape), dtype},
                 {"v", v, key_shape(shape), dtype},
                 {"out", out, query_shape(shape), dtype},
                 {"log_sum_exp", log_sum_exp, row_shape(shape), accumulation_dtype(dtype)}});
  Arena::Scope scope(scratch);
  const detail::AttentionForwardScratch parts =
      allocate_forward_scratch(shape, dtype, stream.device(), scratch);
  dispatch(stream.device(), [&](auto backend) {
    detail::attention_forward(backend, shape, q, k, v, out, log_sum_exp, parts, stream);
  });
}

void attention_backward(const AttentionShape& shape, const Tensor& d_out, const Tensor& q,
                        const Tensor& k, const Tensor& v, const Tensor& out,
                        const Tensor& log_sum_exp, Tensor d_q, Tensor d_k, Tensor d_v,
                        Arena& scratch, Stream& stream) {
  const char* const operation = "attention_backward";
  check_shape(operation, shape, stream.device());
  if (shape.unprepared)
    throw InvalidArgument(std::string(operation) + ": unprepared is for attention_forward alone");
  check_real(operation, "q", q, 3);
  const DType dtype = q.dtype();
  check_tensors(operation, stream.device(),
                {{"d_out", d_out, query_shape(shape), dtype},
                 {"q", q, query_shape(shape), dtype},
                 {"k", k, key_shape(shape), dtype},
                 {"v", v, key_shape(shape), dtype},
                 {"out", out, query_shape(shape), dtype},
                 {"log_sum_exp", log_sum_exp, row_shape(shape), accumulation_dtype(dtype)},
                 {"d_q", d_q, query_shape(shape), dtype},
                 {"d_k", d_k, key_shape(shape), dtype},
                 {"d_v", d_v, key_shape(shape), dtype}});
  Arena::Scope scope(scratch);
  const detail::AttentionBackwardScratch parts =
      allocate_backward_scratch(shape, dtype, stream.device(), scratch);
  dispatch(stream.device(), [&](auto backend) {
    detail::attention_backward(backend, shape, {d_out, q, k, v, out, log_sum_exp}, {d_q, d_k, d_v},
                               parts, stream);
  });
}

}  // namespace polymoe
