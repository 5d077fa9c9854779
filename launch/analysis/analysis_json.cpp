// SPDX-License-Identifier: Apache-2.0
#include "launch/analysis/analysis_json.h"

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "launch/analysis/analysis.h"
#include "launch/analysis/expert_similarity.h"
#include "launch/analysis/token_analysis.h"
#include "launch/analysis/weight_analysis.h"
#include "launch/data/tokenizer.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

template <class Values>
Json list(const Values& values) {
  Json array = Json::array();
  for (const auto& value : values) array.add(value);
  return array;
}

/// [rows, columns] as an array of arrays.
template <class Value>
Json grid(const std::vector<Value>& values, std::int64_t columns) {
  Json rows = Json::array();
  for (std::size_t begin = 0; begin < values.size(); begin += static_cast<std::size_t>(columns))
    rows.add(
        list(std::vector<Value>(values.begin() + static_cast<std::ptrdiff_t>(begin),
                                values.begin() + static_cast<std::ptrdiff_t>(begin) + columns)));
  return rows;
}

Json similarities_json(const std::vector<ExpertSimilarity>& similarities) {
  Json array = Json::array();
  for (const ExpertSimilarity& layer : similarities) {
    Json row = Json::object();
    row.set("layer", layer.layer).set("cosines", grid(layer.cosines, layer.experts));
    array.add(std::move(row));
  }
  return array;
}

Json spectra_json(const std::vector<MatrixSpectrum>& spectra) {
  Json array = Json::array();
  for (const MatrixSpectrum& spectrum : spectra) {
    Json values = Json::array(), numbers = Json::array();
    for (const std::size_t i : shown_places(spectrum.values.size(), 64)) {
      numbers.add(i);
      values.add(spectrum.values[i]);
    }
    Json row = Json::object();
    row.set("name", spectrum.name).set("layer", spectrum.layer);
    row.set("expert", spectrum.expert < 0 ? Json() : Json(spectrum.expert));
    row.set("part", spectrum.part)
        .set("rows", spectrum.rows)
        .set("columns", spectrum.columns)
        .set("effective_rank", spectrum.effective_rank)
        .set("singular_value_numbers", std::move(numbers))
        .set("singular_values", std::move(values));
    array.add(std::move(row));
  }
  return array;
}

Json tokens_json(const TokenAnalysis& tokens, const Tokenizer* tokenizer) {
  Json json = Json::object();
  json.set("tokens", tokens.tokens).set("loss", tokens.loss);
  json.set("state_similarity", grid(tokens.similarity, tokens.states));
  json.set("expert_output_tokens", tokens.output_tokens)
      .set("expert_output_similarity", similarities_json(tokens.outputs));
  Json routing = Json::array();
  for (const LayerRouting& layer : tokens.routing) {
    Json top = Json::array();
    for (const auto& expert : layer.top_tokens) {
      Json row = Json::array();
      for (const auto& [id, count] : expert) {
        Json entry = Json::object();
        entry.set("id", id).set("text", token_text(id, tokenizer)).set("count", count);
        row.add(std::move(entry));
      }
      top.add(std::move(row));
    }
    Json row = Json::object();
    row.set("layer", layer.layer)
        .set("expert_tokens", list(layer.expert_tokens))
        .set("entropy", layer.entropy)
        .set("co_activation", grid(layer.together, layer.experts))
        .set("top_tokens", std::move(top));
    routing.add(std::move(row));
  }
  json.set("routing", std::move(routing));
  Json activations = Json::array();
  for (const LayerActivation& layer : tokens.activations) {
    Json row = Json::object();
    row.set("layer", layer.layer)
        .set("mean", layer.mean)
        .set("deviation", layer.deviation)
        .set("pre_activation", list(layer.x))
        .set("density", list(layer.density))
        .set("mean_result", list(layer.y));
    activations.add(std::move(row));
  }
  return json.set("activations", std::move(activations));
}

}  // namespace

Json analysis_json(const Analysis& analysis, const Tokenizer* tokenizer) {
  Json json = Json::object();
  json.set("checkpoint", analysis.checkpoint).set("step", analysis.step);
  json.set("matrices", spectra_json(analysis.spectra));
  json.set("expert_weight_similarity", similarities_json(analysis.similarities));
  Json coefficients = Json::array();
  for (const CoefficientHistory& history : analysis.coefficients) {
    Json values = Json::array();
    for (const std::vector<double>& set : history.values) values.add(list(set));
    Json row = Json::object();
    row.set("name", history.name)
        .set("steps", list(history.steps))
        .set("values", std::move(values));
    coefficients.add(std::move(row));
  }
  json.set("coefficients", std::move(coefficients));
  if (analysis.tokens) json.set("on_tokens", tokens_json(*analysis.tokens, tokenizer));
  if (!analysis.saturation.empty()) json.set("routing_saturation", list(analysis.saturation));
  return json;
}

}  // namespace polymoe
