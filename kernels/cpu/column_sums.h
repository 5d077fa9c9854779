// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe::cpu {

/// sums[i] += sum over b of partials[b, i], b ascending. partials [blocks, width], sums [width].
template <class T>
void add_column_sums(const T* partials, std::int64_t blocks, std::int64_t width, T* sums) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    const T* partial = partials + block * width;
    for (std::int64_t i = 0; i < width; ++i) sums[i] += partial[i];
  }
}

}  // namespace polymoe::cpu
