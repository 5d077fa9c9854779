// SPDX-License-Identifier: Apache-2.0
#include "kernels/output_loss/output_loss_backends.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/matmul/matmul.h"
#include "kernels/reduction/reduction.h"
#include "runtime/cuda/check.h"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

constexpr int most_threads = 1024;
constexpr int most_warps = most_threads / warp_size;
constexpr int pieces = 4;  // units of a row that a thread has under way at a time

// A unit is four neighbouring logits where rows are made of fours, else one.
template <int unit>
__device__ void load_unit(const float* from, float (&values)[unit]) {
  if constexpr (unit == 4)
    load_four(from, values);
  else
    values[0] = *from;
}
template <int unit, class T>
__device__ void store_unit(T* to, const float (&values)[unit]) {
  if constexpr (unit == 4)
    store_four(to, values);
  else
    *to = from_float<T>(values[0]);
}

// The block's values combined, in one fixed order; the same bits in every thread. `by_warp` is used
// once.
template <class Combine>
__device__ float over_block(float value, float (&by_warp)[most_warps], const Combine& combine) {
  for (int offset = warp_size / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(~0U, value, offset));
  }
  if (threadIdx.x % warp_size == 0) by_warp[threadIdx.x / warp_size] = value;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / warp_size;
  value = by_warp[0];
  for (int w = 1; w < warps; ++w) value = combine(value, by_warp[w]);
  return value;
}

// One block per row reads its logits once for maximum and sum, keeping the first `held` units in
// shared memory, and takes them from there, the rest from memory again, for
// d_logits = scale * (softmax(logits) - one_hot(target)). d_logits may be null, or logits itself.
template <int unit, class Gradient>
__global__ void __launch_bounds__(most_threads)
    loss_of_rows(const float* logits, const std::int32_t* targets, int vocab, int held, float scale,
                 float* token_loss, Gradient* d_logits) {
  extern __shared__ uint4 shared_memory[];
  auto* held_logits = reinterpret_cast<float*>(shared_memory);
  __shared__ float by_warp[2][most_warps];
  const std::int64_t row = blockIdx.x;
  const std::int32_t target = targets[row];
  const int units = vocab / unit, threads = static_cast<int>(blockDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  logits += row * vocab;
  if (d_logits != nullptr) d_logits += row * vocab;

  if (target < 0 || target >= vocab) {
    if (thread == 0) token_loss[row] = target == -1 ? 0.0f : NAN;
    if (d_logits == nullptr) return;
    const float zeros[unit] = {};
    for (int i = thread; i < units; i += threads) store_unit<unit>(d_logits + unit * i, zeros);
    return;
  }

  const float at_target = logits[target];  // before its gradient may take its place
  float largest = -FLT_MAX, sum = 0.0f;    // of exp(logit - largest)
  for (int first = thread; first < units; first += pieces * threads) {
    float values[pieces][unit];
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      const int i = first + p * threads;
      if (i < units) {
        load_unit<unit>(logits + unit * i, values[p]);
      } else {
#pragma unroll
        for (float& value : values[p]) value = -INFINITY;
      }
    }
    float larger = largest;
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
#pragma unroll
      for (const float value : values[p]) larger = fmaxf(larger, value);
    }
    sum *= __expf(largest - larger);
    largest = larger;
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      const int i = first + p * threads;
#pragma unroll
      for (const float value : values[p]) sum += __expf(value - largest);
      if (i < held) store_unit<unit>(held_logits + unit * i, values[p]);
    }
  }
  const float maximum =
      over_block(largest, by_warp[0], [](float a, float b) { return fmaxf(a, b); });
  sum = over_block(sum * __expf(largest - maximum), by_warp[1],
                   [](float a, float b) { return a + b; });
  // In this order nothing is lost where the target is by far the likeliest.
  if (thread == 0) token_loss[row] = logf(sum) + (maximum - at_target);
  if (d_logits == nullptr) return;

  const float factor = scale / sum;
  for (int first = thread; first < units; first += pieces * threads) {
    float values[pieces][unit];
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      const int i = first + p * threads;
      if (i < held)
        load_unit<unit>(held_logits + unit * i, values[p]);
      else if (i < units)
        load_unit<unit>(logits + unit * i, values[p]);
    }
#pragma unroll
    for (int p = 0; p < pieces; ++p) {
      const int i = first + p * threads;
      if (i >= units) continue;
#pragma unroll
      for (int j = 0; j < unit; ++j) {
        values[p][j] = __expf(values[p][j] - maximum) * factor;
        if (unit * i + j == target) values[p][j] -= scale;
      }
      store_unit<unit>(d_logits + unit * i, values[p]);
    }
  }
}

// Bytes of dynamic shared memory that a block of loss_of_rows can have.
int most_held_bytes(Device device) {
  constexpr int of_the_block_itself = 1024;  // more than by_warp takes
  int bytes = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index),
        "cudaDeviceGetAttribute");
  return bytes - of_the_block_itself;
}

// d_logits is null where only losses are wanted.
template <int unit, class Gradient>
void launch(const Tensor& logits, const Tensor& targets, double scale, Tensor token_loss,
            Gradient* d_logits, Stream& stream) {
  const int vocab = static_cast<int>(logits.dim(1)), units = vocab / unit;
  constexpr int unit_bytes = unit * static_cast<int>(sizeof(float));
  const int most_bytes = most_held_bytes(stream.device());
  const int held = d_logits == nullptr ? 0 : std::min(units, most_bytes / unit_bytes);
  const auto kernel = loss_of_rows<unit, Gradient>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes),
        "cudaFuncSetAttribute");
  const int wanted = divide_up(units, pieces);
  const int threads = std::clamp(round_up(wanted, warp_size), warp_size, most_threads);
  kernel<<<static_cast<unsigned>(logits.dim(0)), static_cast<unsigned>(threads),
           static_cast<std::size_t>(held * unit_bytes), native(stream)>>>(
      logits.data<float>(), targets.data<std::int32_t>(), vocab, held, static_cast<float>(scale),
      token_loss.data<float>(), d_logits);
  check_launch("loss_of_rows");
}

// Losses of a chunk's rows, and d_logits unless it is undefined.
void loss(const Tensor& logits, const Tensor& targets, double scale, Tensor token_loss,
          Tensor d_logits, Stream& stream) {
  with_real(d_logits.defined() ? d_logits.dtype() : DType::f32, [&]<class Gradient>(Gradient) {
    auto* gradients = static_cast<Gradient*>(d_logits.raw());
    if (in_vectors<float>(logits.dim(1), {logits.raw(), gradients})) {
      launch<4>(logits, targets, scale, token_loss, gradients, stream);
    } else {
      launch<1>(logits, targets, scale, token_loss, gradients, stream);
    }
  });
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void output_loss_forward(CudaBackend, const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, const OutputLossChunk& chunk, Stream& stream) {
  const std::int64_t rows = x.dim(0);
  for (std::int64_t first = 0; first < rows; first += chunk.logits.dim(0)) {
    const std::int64_t end = std::min(first + chunk.logits.dim(0), rows);
    const Tensor logits = chunk.logits.rows(0, end - first);
    matmul(x.rows(first, end), Transpose::no, weight, Transpose::yes, Write::overwrite, logits,
           stream);
    cuda::loss(logits, targets.rows(first, end), 0.0, token_loss.rows(first, end), {}, stream);
  }
}

void output_loss_forward_backward(CudaBackend, const Tensor& x, const Tensor& weight,
                                  const Tensor& targets, double scale, Tensor token_loss,
                                  Tensor d_x, Tensor d_weight, const OutputLossChunk& chunk,
                                  Stream& stream) {
  const std::int64_t rows = x.dim(0);
  for (std::int64_t first = 0; first < rows; first += chunk.logits.dim(0)) {
    const std::int64_t end = std::min(first + chunk.logits.dim(0), rows);
    const Tensor x_rows = x.rows(first, end), logits = chunk.logits.rows(0, end - first),
                 d_logits = chunk.d_logits.rows(0, end - first);
    matmul(x_rows, Transpose::no, weight, Transpose::yes, Write::overwrite, logits, stream);
    cuda::loss(logits, targets.rows(first, end), scale, token_loss.rows(first, end), d_logits,
               stream);
    // The weights' gradient first: d_x may take the place of x.
    const bool apart = chunk.d_weight.defined();
    matmul(d_logits, Transpose::yes, x_rows, Transpose::no,
           apart && first == 0 ? Write::overwrite : Write::accumulate,
           apart ? chunk.d_weight : d_weight, stream);
    matmul(d_logits, Transpose::no, weight, Transpose::no, Write::overwrite, d_x.rows(first, end),
           stream);
  }
  if (chunk.d_weight.defined()) add(chunk.d_weight, d_weight, stream);
}

}  // namespace polymoe::detail
