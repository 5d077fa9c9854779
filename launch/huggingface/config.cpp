// SPDX-License-Identifier: Apache-2.0
#include "launch/huggingface/config.h"

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/activation/activation.h"
#include "kernels/router/router.h"
#include "launch/config/config.h"
#include "moe/model_config.h"
#include "runtime/error.h"
#include "runtime/files/json.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

constexpr const char* model_types[] = {"llama", "olmoe", "polymoe"};

const char* model_type_of(HuggingFaceFamily family) {
  return model_types[static_cast<std::size_t>(family)];
}

/// Keys of one config.json. Errors name the key.
class Keys {
 public:
  explicit Keys(const Json& json) : json_(json) {}

  /// Null where the key is missing or its value is null.
  const Json* find(const char* key) const {
    const Json* value = json_.find(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  std::int64_t extent(const char* key, std::optional<std::int64_t> otherwise = {}) const {
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    return take(key, otherwise, [](const Json& value) { return value.as_integer(0, most); });
  }
  double number(const char* key, std::optional<double> otherwise = {}) const {
    return take(key, otherwise, [](const Json& value) { return value.as_number(); });
  }
  bool flag(const char* key, bool otherwise) const {
    return take(key, std::optional(otherwise), [](const Json& value) { return value.as_bool(); });
  }
  std::string text(const char* key, std::optional<std::string> otherwise = {}) const {
    return take(key, std::move(otherwise), [](const Json& value) { return value.as_string(); });
  }
  /// Throws unless the key is missing or has this value.
  void require(const char* key, const Json& only) const {
    const Json* value = json_.find(key);
    if (value != nullptr && value->dump() != only.dump())
      throw InvalidArgument(fmt::format("{} = {}: must be {}", key, value->dump(), only.dump()));
  }

  template <class Value, class Read>
  Value take(const char* key, std::optional<Value> otherwise, Read read) const {
    const Json* value = find(key);
    if (value == nullptr) {
      if (otherwise) return *otherwise;
      throw InvalidArgument(fmt::format("the key {} is missing", key));
    }
    try {
      return read(*value);
    } catch (const InvalidArgument& error) {
      throw InvalidArgument(fmt::format("{}: {}", key, error.what()));
    }
  }

 private:
  const Json& json_;
};

/// rope_theta stands by itself up to transformers 4, within rope_parameters from 5 on.
double rope_theta(const Keys& keys) {
  const double old = keys.number("rope_theta", 1e4);
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = keys.find(name);
    if (rope == nullptr) continue;
    const Keys inner(*rope);
    for (const char* type : {"rope_type", "type"})
      if (inner.text(type, "default") != "default")
        throw InvalidArgument(fmt::format("{}.{} = {}: must be default, positions are not scaled",
                                          name, type, inner.text(type)));
    if (std::string(name) == "rope_parameters") return inner.number("rope_theta", old);
  }
  return old;
}

/// What transformers takes where a config.json of the family leaves a key out.
struct FamilyDefaults {
  std::int64_t context;
  double norm_epsilon;
};

void read_widths(const Keys& keys, const FamilyDefaults& defaults, ModelConfig& model) {
  model.layers = keys.extent("num_hidden_layers");
  model.hidden = keys.extent("hidden_size");
  model.heads = keys.extent("num_attention_heads");
  model.kv_heads = keys.extent("num_key_value_heads", model.heads);
  model.vocab = keys.extent("vocab_size");
  model.context = keys.extent("max_position_embeddings", defaults.context);
  model.tied = keys.flag("tie_word_embeddings", false);
  model.norm_epsilon = keys.number("rms_norm_eps", defaults.norm_epsilon);
  model.rope_theta = rope_theta(keys);
  model.init_std = keys.number("initializer_range", model.init_std);
  keys.require("attention_bias", false);
  const std::int64_t head_dim = keys.extent("head_dim", 0);
  if (head_dim != 0 && head_dim * model.heads != model.hidden)
    throw InvalidArgument(
        fmt::format("head_dim = {}: must be hidden_size / num_attention_heads ({} / {})", head_dim,
                    model.hidden, model.heads));
}

void read_llama(const Keys& keys, ModelConfig& model) {
  model.activation.kind = ActivationKind::swiglu;
  model.ffn = keys.extent("intermediate_size");
  keys.require("hidden_act", "silu");
  keys.require("mlp_bias", false);
}

void read_olmoe(const Keys& keys, ModelConfig& model) {
  model.activation.kind = ActivationKind::swiglu;
  model.qk_norm = true;
  model.moe.experts = keys.extent("num_experts");
  model.moe.top_k = keys.extent("num_experts_per_tok");
  model.moe.expert_ffn = keys.extent("intermediate_size");
  model.moe.router.normalize = keys.flag("norm_topk_prob", false);
  model.moe.balance_loss = keys.number("router_aux_loss_coef", model.moe.balance_loss);
  keys.require("hidden_act", "silu");
  keys.require("clip_qkv", Json());
  if (model.moe.experts == 0) throw InvalidArgument("num_experts = 0: must be at least 1");
}

void read_polymoe(const Keys& keys, ModelConfig& model) {
  model.activation.kind = parse_activation(keys.text("hidden_act"));
  model.activation.order = static_cast<int>(keys.extent("activation_order"));
  keys.require("activation_epsilon", model.activation.epsilon);
  model.qk_norm = keys.flag("qk_norm", false);
  model.ffn = keys.extent("intermediate_size");
  MoeConfig& moe = model.moe;
  moe.experts = keys.extent("num_experts");
  if (moe.experts == 0) return;
  moe.top_k = keys.extent("num_experts_per_tok");
  moe.expert_ffn = keys.extent("moe_intermediate_size");
  moe.shared_experts = keys.extent("num_shared_experts");
  moe.dense_layers =
      keys.take("dense_layers", std::optional<std::vector<std::int64_t>>(), [](const Json& value) {
        std::vector<std::int64_t> layers;
        for (const Json& layer : value.items()) layers.push_back(layer.as_integer(0));
        return layers;
      });
  const std::string scores = keys.text("router_scores");
  if (scores != "softmax" && scores != "sigmoid")
    throw InvalidArgument(
        fmt::format("router_scores = {}: must be softmax or sigmoid", Json(scores).dump()));
  moe.router.scores = scores == "softmax" ? RouterScores::softmax : RouterScores::sigmoid;
  moe.router.normalize = keys.flag("norm_topk_prob", false);
  moe.coefficients_per_expert = keys.flag("coefficients_per_expert", false);
  moe.bias_rate = keys.number("router_bias_rate");
  moe.balance_loss = keys.number("router_aux_loss_coef", moe.balance_loss);
  moe.z_loss = keys.number("router_z_loss_coef", moe.z_loss);
}

ModelConfig read_model(const Keys& keys) {
  const std::string type = keys.text("model_type");
  ModelConfig model;
  FamilyDefaults defaults{.context = 4096, .norm_epsilon = 1e-5};
  if (type == model_types[0]) {
    defaults = {.context = 2048, .norm_epsilon = 1e-6};
    read_llama(keys, model);
  } else if (type == model_types[1]) {
    read_olmoe(keys, model);
  } else if (type == model_types[2]) {
    read_polymoe(keys, model);
  } else {
    throw InvalidArgument(fmt::format("model_type = {}: must be {}", Json(type).dump(),
                                      fmt::join(model_types, ", ")));
  }
  read_widths(keys, defaults, model);
  refuse_violations("its model", model_violations(model));
  return model;
}

void add_moe(const ModelConfig& model, HuggingFaceFamily family, Json& config) {
  const MoeConfig& moe = model.moe;
  config.set("num_experts", moe.experts)
      .set("num_experts_per_tok", moe.top_k)
      .set("norm_topk_prob", moe.router.normalize)
      .set("router_aux_loss_coef", moe.balance_loss);
  if (family == HuggingFaceFamily::olmoe) {
    config.set("clip_qkv", Json()).set("output_router_logits", false);
    return;
  }
  Json dense_layers = Json::array();
  for (const std::int64_t layer : moe.dense_layers) dense_layers.add(layer);
  config.set("moe_intermediate_size", model.expert_width())
      .set("num_shared_experts", moe.shared_experts)
      .set("dense_layers", std::move(dense_layers))
      .set("router_scores", moe.router.scores == RouterScores::softmax ? "softmax" : "sigmoid")
      .set("router_bias_rate", moe.bias_rate)
      .set("router_z_loss_coef", moe.z_loss)
      .set("coefficients_per_expert", moe.coefficients_per_expert);
}

}  // namespace

HuggingFaceFamily family_of(const ModelConfig& model) {
  const MoeConfig& moe = model.moe;
  if (model.activation.kind != ActivationKind::swiglu) return HuggingFaceFamily::polymoe;
  if (moe.experts == 0)
    return model.qk_norm ? HuggingFaceFamily::polymoe : HuggingFaceFamily::llama;
  const bool plain = model.qk_norm && moe.shared_experts == 0 && moe.dense_layers.empty() &&
                     moe.router.scores == RouterScores::softmax && moe.bias_rate == 0.0;
  return plain ? HuggingFaceFamily::olmoe : HuggingFaceFamily::polymoe;
}

const char* architecture_of(HuggingFaceFamily family) {
  constexpr const char* names[] = {"LlamaForCausalLM", "OlmoeForCausalLM", "PolymoeForCausalLM"};
  return names[static_cast<std::size_t>(family)];
}

Json huggingface_config(const ModelConfig& model, const HuggingFaceConfigOptions& options) {
  const HuggingFaceFamily family = family_of(model);
  const bool olmoe = family == HuggingFaceFamily::olmoe;
  const Json end = options.end_of_document ? Json(*options.end_of_document) : Json();
  Json config = Json::object();
  config.set("architectures", Json::array().add(architecture_of(family)))
      .set("model_type", model_type_of(family))
      .set("dtype", options.dtype)
      .set("torch_dtype", options.dtype)
      .set("vocab_size", model.vocab)
      .set("hidden_size", model.hidden)
      .set("intermediate_size", olmoe ? model.expert_width() : model.dense_width())
      .set("num_hidden_layers", model.layers)
      .set("num_attention_heads", model.heads)
      .set("num_key_value_heads", model.key_value_heads())
      .set("max_position_embeddings", model.context)
      .set("rms_norm_eps", model.norm_epsilon)
      .set("rope_theta", model.rope_theta)
      .set("rope_parameters",
           Json::object().set("rope_type", "default").set("rope_theta", model.rope_theta))
      .set("tie_word_embeddings", model.tied)
      .set("initializer_range", model.init_std)
      .set("attention_bias", false)
      .set("bos_token_id", Json())
      .set("eos_token_id", end)
      .set("pad_token_id", Json());
  if (family == HuggingFaceFamily::polymoe) {
    config
        .set("auto_map", Json::object()
                             .set("AutoConfig", "configuration_polymoe.PolymoeConfig")
                             .set("AutoModelForCausalLM", "modeling_polymoe.PolymoeForCausalLM"))
        .set("hidden_act", name_of(model.activation.kind))
        .set("activation_order", model.activation.order)
        .set("activation_epsilon", model.activation.epsilon)
        .set("qk_norm", model.qk_norm);
  } else {
    config.set("hidden_act", "silu").set("use_cache", true);
  }
  if (family == HuggingFaceFamily::llama) {
    config.set("mlp_bias", false).set("head_dim", model.head_dim());
  } else {
    add_moe(model, family, config);
  }
  return config;
}

ModelConfig model_of_huggingface_config(const Json& config, const std::string& origin) {
  try {
    return read_model(Keys(config));
  } catch (const InvalidArgument& error) {
    throw InputFileError(origin, error.what());
  }
}

}  // namespace polymoe
