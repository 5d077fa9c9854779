// SPDX-License-Identifier: Apache-2.0
#include "launch/huggingface/tensors.h"
#include <cstdint>
#include <functional>
#include <string>
#include <vector>
#include "kernels/activation/activation.h"
#include "moe/model_config.h"
#include "parallel/checkpoint/names.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

using Visit = std::function<void(const HuggingFaceTensor&)>;

std::string ours(const std::string& name) { return name_of_kind(parameter_kind, name); }

/// One feed-forward: `name` in the checkpoint, `there` in transformers.
struct FeedForwardNames {
  std::string name, there;
  std::int64_t width = 0;
  std::string stacked = {};  // of all experts: the prefix there
  std::int64_t expert = 0;
};

void visit_matrices(const ModelConfig& model, const FeedForwardNames& names, const Visit& visit) {
  const bool gated = is_gated(model.activation.kind);
  const bool stacks = gated && !names.stacked.empty();
  const std::string up = names.there + ".up_proj.weight";
  visit({.name = ours(names.name + ".up.weight"),
         .shape = {pre_activation_factor(model.activation.kind) * names.width, model.hidden},
         .parts = gated ? std::vector{names.there + ".gate_proj.weight", up} : std::vector{up},
         .stacked = stacks ? names.stacked + ".gate_up_proj" : "",
         .expert = names.expert});
  visit({.name = ours(names.name + ".down.weight"),
         .shape = {model.hidden, names.width},
         .parts = {names.there + ".down_proj.weight"},
         .stacked = stacks ? names.stacked + ".down_proj" : "",
         .expert = names.expert});
}

void visit_coefficients(const ModelConfig& model, const std::string& name, const std::string& there,
                        const Visit& visit) {
  const int count = coefficient_count(model.activation);
  if (count > 0)
    visit({.name = ours(name + ".coefficients"),
           .shape = {count},
           .parts = {there + ".coefficients"}});
}

void visit_moe(const ModelConfig& model, const std::string& layer, const std::string& mlp,
               const Visit& visit) {
  const MoeConfig& moe = model.moe;
  visit({.name = ours(layer + ".router.weight"),
         .shape = {moe.experts, model.hidden},
         .parts = {mlp + ".gate.weight"}});
  if (moe.bias_rate != 0.0)
    visit({.name = name_of_kind(router_bias_kind, layer),
           .shape = {moe.experts},
           .parts = {mlp + ".gate.selection_bias"}});
  const std::string name = layer + ".experts", there = mlp + ".experts";
  for (std::int64_t e = 0; e < moe.experts; ++e) {
    const std::string number = "." + std::to_string(e);
    visit_matrices(model,
                   {.name = name + number,
                    .there = there + number,
                    .width = model.expert_width(),
                    .stacked = there,
                    .expert = e},
                   visit);
    if (moe.coefficients_per_expert)
      visit_coefficients(model, name + number, there + number, visit);
  }
  if (!moe.coefficients_per_expert) visit_coefficients(model, name, there, visit);
  if (moe.shared_experts == 0) return;
  const FeedForwardNames shared{
      .name = layer + ".shared", .there = mlp + ".shared_expert", .width = model.shared_width()};
  visit_matrices(model, shared, visit);
  visit_coefficients(model, shared.name, shared.there, visit);
}

void visit_block(const ModelConfig& model, std::int64_t number, const Visit& visit) {
  const std::string layer = "layers." + std::to_string(number);
  const std::string there = "model." + layer, attention = there + ".self_attn";
  const std::int64_t hidden = model.hidden, kv_width = model.key_value_heads() * model.head_dim();
  const auto whole = [&](const std::string& name, const Shape& shape, const std::string& part) {
    visit({.name = ours(layer + name), .shape = shape, .parts = {part}});
  };
  whole(".attention_norm.weight", {hidden}, there + ".input_layernorm.weight");
  whole(".attention.q.weight", {hidden, hidden}, attention + ".q_proj.weight");
  whole(".attention.k.weight", {kv_width, hidden}, attention + ".k_proj.weight");
  whole(".attention.v.weight", {kv_width, hidden}, attention + ".v_proj.weight");
  whole(".attention.o.weight", {hidden, hidden}, attention + ".o_proj.weight");
  if (model.qk_norm) {
    whole(".attention.q_norm.weight", {hidden}, attention + ".q_norm.weight");
    whole(".attention.k_norm.weight", {kv_width}, attention + ".k_norm.weight");
  }
  whole(".feed_forward_norm.weight", {hidden}, there + ".post_attention_layernorm.weight");
  if (model.is_moe_layer(number)) {
    visit_moe(model, layer, there + ".mlp", visit);
    return;
  }
  const FeedForwardNames dense{
      .name = layer + ".feed_forward", .there = there + ".mlp", .width = model.dense_width()};
  visit_matrices(model, dense, visit);
  visit_coefficients(model, dense.name, dense.there, visit);
}

}  // namespace

Shape HuggingFaceTensor::part_shape() const {
  return parts.size() == 1 ? shape
                           : shape.with_first(shape[0] / static_cast<std::int64_t>(parts.size()));
}

void for_each_huggingface_tensor(const ModelConfig& model, const Visit& visit) {
  const Shape table{model.vocab, model.hidden};
  visit({.name = ours("embedding.weight"), .shape = table, .parts = {"model.embed_tokens.weight"}});
  for (std::int64_t layer = 0; layer < model.layers; ++layer) visit_block(model, layer, visit);
  visit(
      {.name = ours("final_norm.weight"), .shape = {model.hidden}, .parts = {"model.norm.weight"}});
  if (!model.tied)
    visit({.name = ours("output.weight"), .shape = table, .parts = {"lm_head.weight"}});
}

}  // namespace polymoe
