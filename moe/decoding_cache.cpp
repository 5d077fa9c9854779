// SPDX-License-Identifier: Apache-2.0
#include "moe/decoding_cache.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "moe/model_config.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/tensor.h"

namespace polymoe {

DecodingCache::DecodingCache(const ModelConfig& config, std::int64_t capacity, DType dtype,
                             Device device, StepSubmission submission)
    : token_({1}, DType::i32, device),
      position_({1}, DType::i32, device),
      tickets_({config.heads}, DType::i32, device),
      submission_(submission),
      capacity_(capacity) {
  if (capacity < 1) {
    throw InvalidArgument("decoding cache: capacity " + std::to_string(capacity) +
                          " must be at least 1");
  }
  const Shape shape{capacity, config.key_value_heads(), config.head_dim()};
  layers_.resize(static_cast<std::size_t>(config.layers));
  for (Layer& layer : layers_) {
    layer.keys = OwnedTensor(shape, dtype, device);
    layer.values = OwnedTensor(shape, dtype, device);
  }
}

std::size_t DecodingCache::bytes(const ModelConfig& config, std::int64_t capacity, DType dtype) {
  return 2 *
         static_cast<std::size_t>(config.layers * capacity * config.key_value_heads() *
                                  config.head_dim()) *
         size_of(dtype);
}

}  // namespace polymoe
