// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "moe/model_config.h"
#include "runtime/buffer.h"

namespace polymoe {

/// Keys and values of the positions seen so far, for generation.
class DecodingCache {
 public:
  DecodingCache(const ModelConfig& config, std::int64_t capacity, DType dtype, Device device);
  std::int64_t length() const { return length_; }
  std::int64_t capacity() const { return capacity_; }

 private:
  friend class LanguageModel;
  struct Layer {
    OwnedTensor keys, values;  // [capacity, kv_heads, head_dim]
  };
  std::vector<Layer> layers_;
  std::int64_t length_ = 0;
  std::int64_t capacity_ = 0;
};

}  // namespace polymoe
