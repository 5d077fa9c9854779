// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_backends.h"
#include "kernels/attention/attention_cuda_cudnn.h"
#include "kernels/attention/attention_cuda_fragments.h"
#include "kernels/attention/attention_cuda_long_documents.h"
#include "kernels/attention/attention_cuda_scratch.h"
#include "kernels/attention/attention_cuda_tiles.h"

namespace polymoe::detail {

namespace {

/// cuDNN, where the device lets it compute the long documents of a call; else null.
cuda::CudnnAttention* cudnn_of_documents(const AttentionShape& shape, DType dtype, Stream& stream) {
  if (!cuda::cudnn_serves_long_documents(shape, dtype) || !cuda::may_have_long_documents(shape))
    return nullptr;
  auto& cudnn = stream.resources<cuda::CudnnAttention>();
  return cudnn.takes_documents() ? &cudnn : nullptr;
}

AttentionShape with_starts(const AttentionShape& shape, const Tensor& document_starts) {
  AttentionShape other = shape;
  other.document_starts = document_starts;
  return other;
}

}  // namespace

void attention_forward(CudaBackend, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp,
                       const AttentionForwardScratch& scratch, Stream& stream) {
  if (out.elements() == 0) return;
  if (cuda::cudnn_serves(shape, q.dtype())) {
    stream.resources<cuda::CudnnAttention>().forward(shape, q, k, v, out, log_sum_exp,
                                                     scratch.tiles);
  } else if (auto* const cudnn = cudnn_of_documents(shape, q.dtype(), stream)) {
    // Ours first: where a tile has rows of both, cuDNN's are written over.
    const cuda::LongDocumentPlan plan = cuda::plan_long_documents(shape, scratch.documents, stream);
    if (plan.some_short) {
      cuda::attention_fragments_forward(with_starts(shape, plan.short_starts), q, k, v, out,
                                        log_sum_exp, stream);
    }
    cudnn->forward_of_documents(shape, plan, q, k, v, out, log_sum_exp, scratch.tiles);
  } else if (cuda::fragments_serve(shape, q.dtype())) {
    cuda::attention_fragments_forward(shape, q, k, v, out, log_sum_exp, stream);
  } else {
    cuda::attention_tiles_forward(shape, q, k, v, out, log_sum_exp, stream);
  }
}

void attention_backward(CudaBackend, const AttentionShape& shape,
                        const AttentionBackwardInputs& inputs, const AttentionGradients& gradients,
                        const AttentionBackwardScratch& scratch, Stream& stream) {
  if (gradients.d_k.elements() == 0) return;
  const DType dtype = inputs.q.dtype();
  if (cuda::cudnn_serves(shape, dtype)) {
    stream.resources<cuda::CudnnAttention>().backward(shape, inputs, gradients, scratch.tiles);
  } else if (auto* const cudnn = cudnn_of_documents(shape, dtype, stream)) {
    const cuda::LongDocumentPlan plan = cuda::plan_long_documents(shape, scratch.documents, stream);
    if (plan.some_short) {
      cuda::attention_fragments_backward(with_starts(shape, plan.short_starts), inputs, gradients,
                                         scratch.output_dots, stream);
    }
    cudnn->backward_of_documents(shape, plan, inputs, gradients, scratch.tiles);
  } else if (cuda::fragments_serve(shape, dtype)) {
    cuda::attention_fragments_backward(shape, inputs, gradients, scratch.output_dots, stream);
  } else {
    // Without queries too: the gradients of the keys are zero then.
    cuda::attention_tiles_backward(shape, inputs, gradients, scratch.output_dots, stream);
  }
}

}  // namespace polymoe::detail
