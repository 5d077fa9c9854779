// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "moe/model_config.h"
#include "runtime/tensor.h"

namespace polymoe {

/// A tensor of a checkpoint, and where a model of Hugging Face's transformers has its elements.
struct HuggingFaceTensor {
  std::string name;                // in the checkpoint: "parameter/layers.3.router.weight"
  Shape shape;                     // there
  std::vector<std::string> parts;  // tensors of equal shape that follow one another in it: one, or
                                   // gate and up of a swiglu
  /// Another form that transformers knows: the tensors of all experts stacked. Empty without one.
  std::string stacked = {};
  std::int64_t expert = 0;

  Shape part_shape() const;
};

/// Calls `visit` for every parameter and router bias of the model, in forward order, as
/// transformers names them (OlmoeForCausalLM and LlamaForCausalLM, and in the same manner what
/// those do not have: activation coefficients, shared experts, router biases).
void for_each_huggingface_tensor(const ModelConfig& model,
                                 const std::function<void(const HuggingFaceTensor&)>& visit);

}  // namespace polymoe
