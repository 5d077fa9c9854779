// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_cuda_long_documents.h"

/// Which kernels compute a call on a GPU, and what scratch they take: functions of shape and dtype
/// alone, known without a GPU, so that a plan made on the meta device holds.
namespace polymoe::cuda {

/// Widest head of the kernels in attention_cuda_tiles_*.cu.
constexpr std::int64_t most_head_dim = 256;

/// Heads of bf16 that tensor cores take, cuDNN's and ours.
inline bool on_tensor_cores(const AttentionShape& shape, DType dtype) {
  return dtype == DType::bf16 && shape.head_dim % 8 == 0 && shape.head_dim <= 128;
}
/// Whether cuDNN computes a call. Single queries are not its: a decoding step has a new key_length
/// each time, and every shape costs cuDNN a plan of its own. Nor are shapes that come rarely, nor
/// documents, but for long ones.
inline bool cudnn_serves(const AttentionShape& shape, DType dtype) {
  return on_tensor_cores(shape, dtype) && shape.query_length > 1 &&
         !shape.document_starts.defined() && !shape.unprepared;
}
/// Whether attention_cuda_fragments_*.cu compute a call; attention_cuda_tiles_*.cu compute all that
/// neither takes.
inline bool fragments_serve(const AttentionShape& shape, DType dtype) {
  return on_tensor_cores(shape, dtype) &&
         (shape.document_starts.defined() || (shape.unprepared && shape.query_length > 1));
}

/// Whether cuDNN computes the long documents of such a call, where the device lets it
/// (attention_cuda_cudnn.h); the scratch is the same where it does not.
inline bool cudnn_serves_long_documents(const AttentionShape& shape, DType dtype) {
  return on_tensor_cores(shape, dtype) && shape.document_starts.defined() && !shape.unprepared &&
         shape.query_length >= least_window_of_long_documents;
}

/// The part of a backward call that cuDNN is given at once.
struct AttentionSlice {
  std::int64_t sequences = 0;
  std::int64_t kv_heads = 0;  // with their query heads; all of them, or of one sequence
};

/// Where cuDNN's backward pass is deterministic it keeps the gradients of the scores, bf16 [heads,
/// query_length, key_length] in full tiles, to sum those of the queries in a second pass. Slices of
/// the batch bound them: as many sequences as make at most 1 GiB, else as many key heads of one
/// sequence, at least one.
inline std::int64_t score_gradient_bytes(const AttentionShape& shape, const AttentionSlice& slice) {
  const auto in_tiles = [](std::int64_t length) { return (length + 127) / 128 * 128; };
  return slice.sequences * slice.kv_heads * (shape.heads / shape.kv_heads) *
         in_tiles(shape.query_length) * in_tiles(shape.key_length) * 2;
}
inline AttentionSlice backward_slice(const AttentionShape& shape) {
  constexpr std::int64_t most = std::int64_t{1} << 30;
  const auto at_most = [](std::int64_t wanted, std::int64_t all) {
    return std::clamp<std::int64_t>(wanted, 1, std::max<std::int64_t>(all, 1));
  };
  const std::int64_t sequence = score_gradient_bytes(shape, {1, shape.kv_heads});
  if (sequence <= most)
    return {at_most(most / std::max<std::int64_t>(sequence, 1), shape.batch), shape.kv_heads};
  return {1, at_most(most / score_gradient_bytes(shape, {1, 1}), shape.kv_heads)};
}

/// Bytes of cuDNN's workspaces: estimates that hold for cuDNN 9.19's plans on compute capability
/// 8.0 and 9.0. What a plan needs beyond them is allocated once and kept with the stream
/// (attention_cuda_cudnn.h).
constexpr std::int64_t workspace_alignment = 256;
constexpr std::int64_t workspace_counters = std::int64_t{1} << 20;
inline std::int64_t forward_workspace_bytes(const AttentionShape&) { return workspace_counters; }
/// The scores' gradients of a slice, per query the dot of out and d_out, and with grouped heads the
/// gradients of keys and values of each query head, in bf16.
inline std::int64_t backward_workspace_bytes(const AttentionShape& shape) {
  const AttentionSlice slice = backward_slice(shape);
  const std::int64_t heads = slice.sequences * slice.kv_heads * (shape.heads / shape.kv_heads);
  const std::int64_t per_head =
      shape.heads == shape.kv_heads ? 0 : 2 * shape.key_length * shape.head_dim * 2;
  return workspace_counters + score_gradient_bytes(shape, slice) +
         heads * (shape.query_length * 4 + per_head);
}

/// The same where cuDNN computes long documents, for one of its calls at a time.
inline std::int64_t backward_workspace_bytes_of_documents(const AttentionShape& shape) {
  std::int64_t bytes = 0;
  for (std::size_t c = 0; c < long_document_calls; ++c)
    bytes = std::max(bytes, backward_workspace_bytes(shape_of_long_documents(shape, c)));
  return bytes;
}

}  // namespace polymoe::cuda
