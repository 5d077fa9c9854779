// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "moe/model_config.h"
#include "runtime/files/json.h"

namespace polymoe {

/// Which class of transformers computes a model.
enum class HuggingFaceFamily : std::uint8_t {
  llama,    // LlamaForCausalLM: dense, swiglu, no q/k norm
  olmoe,    // OlmoeForCausalLM: experts with swiglu in every layer, q/k norm, softmax router
  polymoe,  // PolymoeForCausalLM, of the code that an export carries: everything else
};

HuggingFaceFamily family_of(const ModelConfig& model);
/// "OlmoeForCausalLM", ...
const char* architecture_of(HuggingFaceFamily family);

struct HuggingFaceConfigOptions {
  std::string dtype;                            // "float32" or "bfloat16"
  std::optional<std::int64_t> end_of_document;  // token id
};

/// The content of config.json for a model.
Json huggingface_config(const ModelConfig& model, const HuggingFaceConfigOptions& options);

/// The model that a config.json describes; `origin` is its path. What takes no part in the
/// prediction has its default. Throws InputFileError naming the key for anything that polymoe does
/// not compute in the same way.
ModelConfig model_of_huggingface_config(const Json& config, const std::string& origin);

}  // namespace polymoe
