// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention_step_backends.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/attention/attention_cuda_tiles.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/early_launch.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/rms_norm/rms_norm_cuda_row.cuh"
#include "kernels/rotary/rotary_cuda_angles.cuh"
#include "runtime/rounding.h"

namespace polymoe::cuda {
namespace {

constexpr int warps = 16, threads = warps * warp_size;
constexpr int keys_at_once = 4;  // of a warp, whose keys are `warps` apart
constexpr int span = static_cast<int>(detail::attention_step_span);

template <class T>
struct Step {
  const T *q, *k, *v;
  const T *q_norm, *k_norm;  // or null
  T *keys, *values, *out;
  const std::int32_t* position;
  float* partials;    // [heads, spans, head_dim + 2]
  unsigned* tickets;  // [heads]
  int kv_heads, group, head_dim;
  bool in_vectors;  // q and k
  float norm_epsilon, scale;
  RotaryAngles angles;
};

/// 1 / rms of the whole q and the whole k; 1 without norms. By all threads.
template <class T>
__device__ float2 inverse_roots(const Step<T>& s) {
  using V = Vector<T>;
  if (s.q_norm == nullptr) return {1.0F, 1.0F};
  __shared__ BlockSum<2>::Storage storage;
  const int kv_width = s.kv_heads * s.head_dim, width = kv_width * s.group;
  float squares[2] = {0.0F, 0.0F};
  if (s.in_vectors) {
    const int of_q = width / V::size, of_both = of_q + kv_width / V::size;
    for (int i = threadIdx.x; i < of_both; i += threads) {
      const bool is_q = i < of_q;
      float values[V::size], sum = 0.0F;
      V::unpack(is_q ? reinterpret_cast<const uint4*>(s.q)[i]
                     : reinterpret_cast<const uint4*>(s.k)[i - of_q],
                values);
#pragma unroll
      for (const float value : values) sum = fmaf(value, value, sum);
      squares[0] += is_q ? sum : 0.0F;
      squares[1] += is_q ? 0.0F : sum;
    }
  } else {
    for (int i = threadIdx.x; i < width; i += threads) {
      const float q = to_float(s.q[i]), k = i < kv_width ? to_float(s.k[i]) : 0.0F;
      squares[0] = fmaf(q, q, squares[0]);
      squares[1] = fmaf(k, k, squares[1]);
    }
  }
  BlockSum<2>{storage}(squares);
  return {inverse_rms(squares[0], width, s.norm_epsilon),
          inverse_rms(squares[1], kv_width, s.norm_epsilon)};
}

/// What a thread makes of a head: its pair (i, i + head_dim / 2), normed, rotated, rounded as it is
/// kept.
struct Pair {
  int low, high;
  float2 scales, rotation;

  /// What is known before the head is; `norm` may be null.
  template <class T>
  __device__ Pair(const Step<T>& s, const T* norm, int head, int pair, int position)
      : low(head * s.head_dim + pair), high(low + s.head_dim / 2), scales{1.0F, 1.0F} {
    if (norm != nullptr) scales = {to_float(norm[low]), to_float(norm[high])};
    rotation = s.angles(position, pair);
  }
  template <class T>
  __device__ float2 of(T x_low, T x_high, float inv_rms) const {
    const float l = normed(to_float(x_low), inv_rms, scales.x);
    const float h = normed(to_float(x_high), inv_rms, scales.y);
    return {to_float(from_float<T>(l * rotation.x - h * rotation.y)),
            to_float(from_float<T>(h * rotation.x + l * rotation.y))};
  }
};

/// What a warp knows of the keys that it has seen: its lanes hold neighbouring elements of the sum.
template <int held>
struct Seen {
  float largest = -INFINITY, sum = 0.0F, out[held] = {};

  /// The scores that follow are at most this.
  __device__ void raise(float next_largest) {
    const float shrunk = expf(largest - next_largest);
    largest = next_largest;
    sum *= shrunk;
#pragma unroll
    for (float& value : out) value *= shrunk;
  }
  __device__ void add(float score, const float (&value)[held]) {
    const float weight = expf(score - largest);
    sum += weight;
#pragma unroll
    for (int c = 0; c < held; ++c) out[c] = fmaf(weight, value[c], out[c]);
  }
};

/// A lane's elements of a row of a head: `whole` where the head has all `dim`.
template <class T, int held, bool whole>
__device__ Pack<T, held> load_row(const T* row, int head_dim) {
  const int column = static_cast<int>(threadIdx.x) % warp_size * held;
  Pack<T, held> pack;
  if constexpr (whole) {
    pack = *reinterpret_cast<const Pack<T, held>*>(row + column);
  } else {
#pragma unroll
    for (int c = 0; c < held; ++c)
      pack.values[c] = column + c < head_dim ? row[column + c] : from_float<T>(0.0F);
  }
  return pack;
}

template <int held>
__device__ float dot_over_warp(const float (&a)[held], const float (&b)[held]) {
  float dot = 0.0F;
#pragma unroll
  for (int c = 0; c < held; ++c) dot = fmaf(a[c], b[c], dot);
  return sum_over_warp(dot);
}

/// Asks for the keys and values of tokens [begin, end), which were written in steps before this
/// one.
template <class T>
__device__ void prefetch_rows(const Step<T>& s, int kv_head, int begin, int end) {
  constexpr int line = 128 / sizeof(T);
  const int lines = (s.head_dim + line - 1) / line;
  for (int i = static_cast<int>(threadIdx.x); i < (end - begin) * lines; i += threads) {
    const std::int64_t row = (begin + i / lines) * s.kv_heads + kv_head;
    const std::int64_t at = row * s.head_dim + i % lines * line;
    prefetch(s.keys + at);
    prefetch(s.values + at);
  }
}

// A block per head and span of keys, whose warps share out the keys; blocks of spans that begin
// behind the token have nothing to do. Its registers are half a processor's, so that it can begin
// beside a product. The last of a head's blocks adds up what all of them made.
template <class T, int dim, bool whole>
__global__ void __launch_bounds__(threads, dim > 128 ? 1 : 2)
    attend(const __grid_constant__ Step<T> s) {
  constexpr int held = dim / warp_size;
  __shared__ float query[dim], key[dim], value[dim];  // of the token; the query scaled
  __shared__ float largest_of[warps], sum_of[warps], out_of[warps][dim];
  __shared__ bool last;
  let_next_begin();
  const int head = static_cast<int>(blockIdx.x), kv_head = head / s.group;
  const int position = *s.position, begin = static_cast<int>(blockIdx.y) * span;
  if (begin > position) {  // whole blocks
    wait_for_previous();
    return;
  }
  const int end = min(begin + span, position);  // of the tokens before this one
  const bool newest = position - begin < span;  // the token itself is in this span
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % warp_size, warp = thread / warp_size, pairs = s.head_dim / 2;
  const std::int64_t stride = std::int64_t{s.kv_heads} * s.head_dim;
  // Before q, k and v are there: the keys and values of the tokens before this one, and the angles.
  // Threads of the first half form the queries, of the second what the token adds to the cache.
  prefetch_rows(s, kv_head, begin, end);
  const int first_key = begin + warp;
  Pack<T, held> keys[keys_at_once], values[keys_at_once];
  const auto load = [&](int j) {
    const std::int64_t first = j * stride + kv_head * s.head_dim, step = warps * stride;
#pragma unroll
    for (int u = 0; u < keys_at_once; ++u)
      if (j + u * warps < end)
        keys[u] = load_row<T, held, whole>(s.keys + first + u * step, s.head_dim);
#pragma unroll
    for (int u = 0; u < keys_at_once; ++u)
      if (j + u * warps < end)
        values[u] = load_row<T, held, whole>(s.values + first + u * step, s.head_dim);
  };
  load(first_key);
  const bool of_q = thread < threads / 2;
  const int pair = thread % (threads / 2);
  const Pair made(s,
                  pair >= pairs ? nullptr
                  : of_q        ? s.q_norm
                                : s.k_norm,
                  of_q ? head : kv_head, pair, position);
  for (int i = thread; i < dim; i += threads) query[i] = key[i] = value[i] = 0.0F;
  wait_for_previous();
  T x_low{}, x_high{}, v_low{}, v_high{};
  if (pair < pairs) {
    const T* const x = of_q ? s.q : s.k;
    x_low = x[made.low];
    x_high = x[made.high];
    if (!of_q) {
      v_low = s.v[made.low];
      v_high = s.v[made.high];
    }
  }
  const float2 inv_rms = inverse_roots(s);
  __syncthreads();
  if (pair < pairs) {
    const float2 kept = made.of(x_low, x_high, of_q ? inv_rms.x : inv_rms.y);
    if (of_q) {
      query[pair] = kept.x * s.scale;
      query[pair + pairs] = kept.y * s.scale;
    } else if (newest) {
      key[pair] = kept.x;
      key[pair + pairs] = kept.y;
      value[pair] = to_float(v_low);
      value[pair + pairs] = to_float(v_high);
      if (head % s.group == 0) {
        const std::int64_t row = position * stride;
        s.keys[row + made.low] = from_float<T>(kept.x);
        s.keys[row + made.high] = from_float<T>(kept.y);
        s.values[row + made.low] = v_low;
        s.values[row + made.high] = v_high;
      }
    }
  }
  __syncthreads();
  float q[held];
#pragma unroll
  for (int c = 0; c < held; ++c) q[c] = query[lane * held + c];
  Seen<held> seen;
  for (int j = first_key; j < end; j += warps * keys_at_once) {
    const int valid = min((end - j + warps - 1) / warps, keys_at_once);
    if (j != first_key) load(j);
    float scores[keys_at_once], next_largest = seen.largest;
#pragma unroll
    for (int u = 0; u < keys_at_once; ++u) {
      scores[u] = -INFINITY;
      if (u >= valid) continue;
      float k[held];
#pragma unroll
      for (int c = 0; c < held; ++c) k[c] = to_float(keys[u].values[c]);
      scores[u] = dot_over_warp(q, k);
      next_largest = fmaxf(next_largest, scores[u]);
    }
    seen.raise(next_largest);
#pragma unroll
    for (int u = 0; u < keys_at_once; ++u) {
      if (u >= valid) continue;
      float v[held];
#pragma unroll
      for (int c = 0; c < held; ++c) v[c] = to_float(values[u].values[c]);
      seen.add(scores[u], v);
    }
  }
  if (newest && warp == warps - 1) {
    float k[held], v[held];
#pragma unroll
    for (int c = 0; c < held; ++c) {
      k[c] = key[lane * held + c];
      v[c] = value[lane * held + c];
    }
    const float score = dot_over_warp(q, k);
    seen.raise(fmaxf(seen.largest, score));
    seen.add(score, v);
  }
  if (lane == 0) {
    largest_of[warp] = seen.largest;
    sum_of[warp] = seen.sum;
  }
#pragma unroll
  for (int c = 0; c < held; ++c) out_of[warp][lane * held + c] = seen.out[c];
  __syncthreads();
  // Some warp saw a key. One without has -infinity, 0 and zeros. A lane weighs what a warp saw, in
  // as many warps as hold the head.
  static_assert(warps <= warp_size);
  float largest = -INFINITY, sum = 0.0F, result = 0.0F;
  if (thread < dim) {
    const bool weighs = lane < warps;
    largest = max_over_warp(weighs ? largest_of[lane] : -INFINITY);
    const float shrunk = weighs ? expf(largest_of[lane] - largest) : 0.0F;
    sum = sum_over_warp(weighs ? sum_of[lane] * shrunk : 0.0F);
#pragma unroll
    for (int w = 0; w < warps; ++w)
      result = fmaf(out_of[w][thread], __shfl_sync(whole_warp, shrunk, w), result);
  }
  T* const out = s.out + head * s.head_dim;
  const int spans = position / span + 1;
  if (spans == 1) {
    if (thread < s.head_dim) out[thread] = from_float<T>(result / sum);
    return;
  }
  const std::int64_t of_span = s.head_dim + 2;
  float* const partials = s.partials + std::int64_t{head} * gridDim.y * of_span;
  float* const own = partials + blockIdx.y * of_span;
  if (thread < s.head_dim) own[thread] = result;
  if (thread == 0) {
    own[s.head_dim] = largest;
    own[s.head_dim + 1] = sum;
  }
  __threadfence();
  __syncthreads();
  if (thread == 0) {
    last = atomicAdd(s.tickets + head, 1U) == static_cast<unsigned>(spans - 1);
    if (last) s.tickets[head] = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  largest = -INFINITY;
  for (int i = 0; i < spans; ++i)
    largest = fmaxf(largest, __ldcg(partials + i * of_span + s.head_dim));
  sum = result = 0.0F;
  for (int i = 0; i < spans; ++i) {
    const float* const part = partials + i * of_span;
    const float shrunk = expf(__ldcg(part + s.head_dim) - largest);
    sum += __ldcg(part + s.head_dim + 1) * shrunk;
    if (thread < s.head_dim) result += __ldcg(part + thread) * shrunk;
  }
  if (thread < s.head_dim) out[thread] = from_float<T>(result / sum);
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void attention_step(CudaBackend, const AttentionStepShape& shape, const AttentionStepInputs& inputs,
                    const AttentionStepCache& cache, Tensor out, Tensor partials, Arena&,
                    Stream& stream) {
  if (cache.keys.dim(0) == 0) return;
  cuda::with_real(cache.keys.dtype(), [&]<class T>(T) {
    const auto scale_or_null = [](const Tensor& norm) { return static_cast<const T*>(norm.raw()); };
    // Row r of these positions is at r.
    const RotaryPositions positions{.sequence_length = std::int64_t{1} << 31, .theta = shape.theta};
    const cuda::Step<T> step{
        .q = static_cast<const T*>(inputs.q.raw()),
        .k = static_cast<const T*>(inputs.k.raw()),
        .v = static_cast<const T*>(inputs.v.raw()),
        .q_norm = scale_or_null(inputs.q_norm),
        .k_norm = scale_or_null(inputs.k_norm),
        .keys = static_cast<T*>(cache.keys.raw()),
        .values = static_cast<T*>(cache.values.raw()),
        .out = static_cast<T*>(out.raw()),
        .position = cache.position.data<std::int32_t>(),
        .partials = partials.data<float>(),
        .tickets = reinterpret_cast<unsigned*>(cache.tickets.data<std::int32_t>()),
        .kv_heads = static_cast<int>(shape.kv_heads),
        .group = static_cast<int>(shape.heads / shape.kv_heads),
        .head_dim = static_cast<int>(shape.head_dim),
        .in_vectors =
            cuda::in_vectors<T>(shape.kv_heads * shape.head_dim, {inputs.q.raw(), inputs.k.raw()}),
        .norm_epsilon = static_cast<float>(shape.norm_epsilon),
        .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim))),
        .angles = cuda::RotaryAngles(positions, shape.head_dim / 2, false)};
    const dim3 grid(static_cast<unsigned>(shape.heads), static_cast<unsigned>(partials.dim(1)));
    const auto launch = [&]<auto kernel>() {
      cuda::prefer_shared_memory<kernel>();
      cuda::launch_early<kernel>(grid, cuda::threads, 0, cuda::native(stream), step);
    };
    cuda::with_padded_dim(shape.head_dim, [&]<int dim>(std::integral_constant<int, dim>) {
      if (shape.head_dim == dim)
        launch.template operator()<&cuda::attend<T, dim, true>>();
      else
        launch.template operator()<&cuda::attend<T, dim, false>>();
    });
  });
}

}  // namespace polymoe::detail
