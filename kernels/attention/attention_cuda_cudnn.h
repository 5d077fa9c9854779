// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cudnn.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>

#include "kernels/attention/attention_backends.h"
#include "kernels/attention/attention_cuda_long_documents.h"
#include "kernels/attention/attention_cuda_scratch.h"
#include "runtime/stream.h"

namespace polymoe::cuda {

/// cuDNN's scaled-dot-product attention for one stream: its handle and one execution plan per
/// shape. Made at a stream's first such call and kept with the stream; a stream belongs to one
/// thread, so nothing here is locked.
///
/// A plan is built at the first call of its shape, which takes a good part of a second, and picked
/// by cuDNN's heuristic, never by timing: two runs compute the same. The backward pass always asks
/// for the deterministic algorithm.
class CudnnAttention final : public StreamResources {
 public:
  explicit CudnnAttention(Stream& stream);
  ~CudnnAttention() override;
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  /// As attention_forward and attention_backward, for shapes that cudnn_serves(). `workspace` is a
  /// tensor of u8; a plan that needs more takes memory of its own, kept with the stream.
  void forward(const AttentionShape& shape, const Tensor& q, const Tensor& k, const Tensor& v,
               const Tensor& out, const Tensor& log_sum_exp, const Tensor& workspace);
  void backward(const AttentionShape& shape, const detail::AttentionBackwardInputs& inputs,
                const detail::AttentionGradients& gradients, const Tensor& workspace);

  /// Whether cuDNN's deterministic backward pass takes sequences that begin anywhere: on compute
  /// capability 9 and 10, from version 9.19 on, the oldest that was tried. Source: cudnn-frontend
  /// 1.32, sdpa_backward's checks.
  bool takes_documents() const { return takes_documents_; }
  /// The same for the long documents of windows, where takes_documents(); `shape` is that of the
  /// windows, and no other row is written.
  void forward_of_documents(const AttentionShape& shape, const LongDocumentPlan& plan,
                            const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                            const Tensor& log_sum_exp, const Tensor& workspace);
  void backward_of_documents(const AttentionShape& shape, const LongDocumentPlan& plan,
                             const detail::AttentionBackwardInputs& inputs,
                             const detail::AttentionGradients& gradients, const Tensor& workspace);

 private:
  struct Plan;
  struct Kernel;  // what a plan is built for
  struct Begin {  // elements before a slice, in tensors of queries and of keys and in log_sum_exp
    std::int64_t query, key, row;
  };
  using Key = std::array<std::int64_t, 9>;
  using Pointers = std::unordered_map<std::int64_t, void*>;

  /// Calls run_slice(slice, first sequence, first key head) with the slices of backward_slice().
  template <class RunSlice>
  static void for_each_slice(const AttentionShape& shape, const RunSlice& run_slice);
  static Pointers backward_pointers(const detail::AttentionBackwardInputs& inputs,
                                    const detail::AttentionGradients& gradients,
                                    const Begin& begin);
  /// From entry `first` on.
  static void add_tables(const LongDocumentTables& tables, std::int64_t first, Pointers& pointers);

  const Plan& plan_for(const Kernel& kernel);
  void run(const Kernel& kernel, Pointers pointers, const Tensor& workspace);
  void* memory_for(const Plan& plan, const Tensor& workspace);
  void release() noexcept;

  int device_ = 0;
  cudaStream_t stream_ = nullptr;
  cudnnHandle_t handle_ = nullptr;
  bool takes_documents_ = false;
  std::map<Key, std::unique_ptr<Plan>> plans_;
  void* own_workspace_ = nullptr;
  std::int64_t own_workspace_bytes_ = 0;
};

}  // namespace polymoe::cuda
