// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polymoe::cuda {

/// 1 / rms of a row, from the sum of its squares.
__device__ inline float inverse_rms(float squares, int width, float epsilon) {
  return rsqrtf(squares / static_cast<float>(width) + epsilon);
}

/// An element of the normed row.
__device__ inline float normed(float x, float inv_rms, float scale) {
  return x * (inv_rms * scale);
}

}  // namespace polymoe::cuda
