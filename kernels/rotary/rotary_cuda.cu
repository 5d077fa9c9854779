// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/rotary_backends.h"

#include <algorithm>

#include "kernels/cuda/device/vectors.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/real_dtype.cuh"
#include "kernels/rotary/rotary_cuda_angles.cuh"
#include "runtime/cuda/check.h"

namespace polymoe::cuda {
namespace {

constexpr int threads = 128;

template <class T>
struct Heads {
  T* x;
  std::int64_t rows, angles_apart;  // of rows that share their angles
  int heads, pairs;                 // pairs of a head
  RotaryAngles angles;
};

// A block rotates the rows of one position in all sequences, so that its angles are formed once; or
// a row, where documents begin anywhere.
template <class T, bool in_vectors>
__global__ void __launch_bounds__(threads) rotate(const Heads<T> a) {
  using V = Vector<T>;
  extern __shared__ float rotations[];  // [cosine and sine, pairs]
  for (int i = threadIdx.x; i < a.pairs; i += threads) {
    const float2 rotation = a.angles(blockIdx.x, i);
    rotations[i] = rotation.x;
    rotations[a.pairs + i] = rotation.y;
  }
  __syncthreads();
  const float *cosines = rotations, *sines = rotations + a.pairs;
  for (std::int64_t row = blockIdx.x; row < a.rows; row += a.angles_apart) {
    T* x = a.x + row * a.heads * 2 * a.pairs;
    if constexpr (in_vectors) {
      const int per_head = a.pairs / V::size;
      for (int i = threadIdx.x; i < a.heads * per_head; i += threads) {
        const int pair = i % per_head * V::size;
        auto* low = reinterpret_cast<uint4*>(x + i / per_head * 2 * a.pairs + pair);
        auto* high = reinterpret_cast<uint4*>(x + i / per_head * 2 * a.pairs + a.pairs + pair);
        float lows[V::size], highs[V::size];
        V::unpack(*low, lows);
        V::unpack(*high, highs);
#pragma unroll
        for (int j = 0; j < V::size; ++j) {
          const float cosine = cosines[pair + j], sine = sines[pair + j];
          const float l = lows[j], h = highs[j];
          lows[j] = l * cosine - h * sine;
          highs[j] = h * cosine + l * sine;
        }
        *low = V::pack(lows);
        *high = V::pack(highs);
      }
    } else {
      for (int i = threadIdx.x; i < a.heads * a.pairs; i += threads) {
        const int pair = i % a.pairs;
        T* low = x + i / a.pairs * 2 * a.pairs + pair;
        T* high = low + a.pairs;
        const float l = to_float(*low), h = to_float(*high);
        *low = from_float<T>(l * cosines[pair] - h * sines[pair]);
        *high = from_float<T>(h * cosines[pair] + l * sines[pair]);
      }
    }
  }
}

}  // namespace
}  // namespace polymoe::cuda

namespace polymoe::detail {

void rotary(CudaBackend, const RotaryPositions& positions, bool inverse, Tensor x, Stream& stream) {
  if (x.elements() == 0) return;
  cuda::with_real(x.dtype(), [&]<class T>(T) {
    const bool by_document = positions.document_starts.defined();
    const std::int64_t apart = by_document ? x.dim(0) : positions.sequence_length;
    const cuda::Heads<T> heads{.x = static_cast<T*>(x.raw()),
                               .rows = x.dim(0),
                               .angles_apart = apart,
                               .heads = static_cast<int>(x.dim(1)),
                               .pairs = static_cast<int>(x.dim(2) / 2),
                               .angles = cuda::RotaryAngles(positions, x.dim(2) / 2, inverse)};
    const auto grid = static_cast<unsigned>(std::min(apart, x.dim(0)));
    const auto shared = static_cast<std::size_t>(heads.pairs) * 2 * sizeof(float);
    const auto native = cuda::native(stream);
    if (cuda::in_vectors<T>(heads.pairs, {x.raw()})) {
      cuda::rotate<T, true><<<grid, cuda::threads, shared, native>>>(heads);
    } else {
      cuda::rotate<T, false><<<grid, cuda::threads, shared, native>>>(heads);
    }
  });
  cuda::check_launch("rotary");
}

}  // namespace polymoe::detail
