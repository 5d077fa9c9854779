// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_backends.h"
#include "kernels/attention/attention_cuda_cudnn.h"
#include "kernels/attention/attention_cuda_fragments.h"
#include "kernels/attention/attention_cuda_scratch.h"
#include "kernels/attention/attention_cuda_tiles.h"

namespace polymoe::detail {

void attention_forward(CudaBackend, const AttentionShape& shape, const Tensor& q, const Tensor& k,
                       const Tensor& v, Tensor out, Tensor log_sum_exp, Tensor workspace,
                       Stream& stream) {
  if (out.elements() == 0) return;
  if (cuda::cudnn_serves(shape, q.dtype())) {
    stream.resources<cuda::CudnnAttention>().forward(shape, q, k, v, out, log_sum_exp, workspace);
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
  if (cuda::cudnn_serves(shape, inputs.q.dtype())) {
    stream.resources<cuda::CudnnAttention>().backward(shape, inputs, gradients, scratch.tiles);
  } else if (cuda::fragments_serve(shape, inputs.q.dtype())) {
    cuda::attention_fragments_backward(shape, inputs, gradients, scratch.output_dots, stream);
  } else {
    // Without queries too: the gradients of the keys are zero then.
    cuda::attention_tiles_backward(shape, inputs, gradients, scratch.output_dots, stream);
  }
}

}  // namespace polymoe::detail
