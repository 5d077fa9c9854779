// SPDX-License-Identifier: Apache-2.0
#include "launch/analysis/analysis_page.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "launch/analysis/analysis.h"
#include "launch/analysis/expert_similarity.h"
#include "launch/analysis/token_analysis.h"
#include "launch/analysis/weight_analysis.h"
#include "launch/config/values.h"
#include "launch/data/tokenizer.h"
#include "launch/reports/figure.h"
#include "launch/reports/page.h"

namespace polymoe {
namespace {

HeatMap square(const std::string& title, const std::string& axis, const std::string& label,
               const std::vector<double>& values, std::int64_t count) {
  return {.title = title,
          .x_label = axis,
          .y_label = axis,
          .value_label = label,
          .rows = count,
          .columns = count,
          .values = values};
}

HeatMap between_experts(const std::string& what, const ExpertSimilarity& layer) {
  std::vector<double> others = layer.cosines;
  // The diagonal would hide the rest.
  for (std::int64_t e = 0; e < layer.experts; ++e)
    others[static_cast<std::size_t>(e * layer.experts + e)] = NAN;
  return square(fmt::format("{} of the experts of layer {}", what, layer.layer), "expert", "cosine",
                others, layer.experts);
}

/// Effective rank over the smaller side, by layer: the mean over experts and their range.
Chart rank_chart(const std::vector<MatrixSpectrum>& spectra) {
  Chart chart{.title = "Effective rank of the feed-forward matrices",
              .x = {.label = "layer", .whole = true},
              .y = {.label = "effective rank / smaller side"}};
  for (const char* part : {"gate", "up", "down"}) {
    std::map<std::int64_t, std::vector<double>> layers;
    for (const MatrixSpectrum& spectrum : spectra)
      if (spectrum.part == part)
        layers[spectrum.layer].push_back(
            spectrum.effective_rank /
            static_cast<double>(std::min(spectrum.rows, spectrum.columns)));
    if (layers.empty()) continue;
    Series series{
        .name = part, .style = Series::Style::line_points, .spread = Series::Spread::bars};
    for (const auto& [layer, values] : layers) {
      double sum = 0.0;
      for (const double value : values) sum += value;
      series.x.push_back(static_cast<double>(layer));
      series.y.push_back(sum / static_cast<double>(values.size()));
      series.low.push_back(*std::min_element(values.begin(), values.end()));
      series.high.push_back(*std::max_element(values.begin(), values.end()));
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

/// Singular values over the largest, a line per layer (of its first matrix of that part).
Chart spectrum_chart(const std::vector<MatrixSpectrum>& spectra, const std::string& part) {
  Chart chart{.title = fmt::format("Singular values of {}", part),
              .x = {.label = "number / smaller side"},
              .y = {.label = "singular value / largest", .logarithmic = true}};
  std::map<std::int64_t, const MatrixSpectrum*> layers;
  for (const MatrixSpectrum& spectrum : spectra)
    if (spectrum.part == part) layers.emplace(spectrum.layer, &spectrum);
  std::vector<const MatrixSpectrum*> all;
  for (const auto& [layer, spectrum] : layers) all.push_back(spectrum);
  for (const std::size_t i : shown_places(all.size(), 8)) {
    const std::vector<double>& values = all[i]->values;
    Series series{.name = fmt::format("layer {}", all[i]->layer)};
    for (const std::size_t place : shown_places(values.size(), 200)) {
      series.x.push_back(static_cast<double>(place) / static_cast<double>(values.size()));
      series.y.push_back(values[place] / values.front());
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

void add_weights(Page& page, const Analysis& analysis) {
  constexpr std::size_t most_layers = 6;
  page.heading("Weights");
  page.figure(rank_chart(analysis.spectra),
              "exp of the entropy of the normalised singular values; bars: lowest and highest "
              "expert of the layer.");
  for (const char* part : {"gate", "up", "down"})
    if (const Chart chart = spectrum_chart(analysis.spectra, part); !chart.series.empty())
      page.figure(chart, "Of the first expert of each layer.");
  for (const std::size_t i : shown_places(analysis.similarities.size(), most_layers))
    page.figure(between_experts("Weights", analysis.similarities[i]));
}

void add_coefficients(Page& page, const Analysis& analysis) {
  constexpr std::size_t most = 6;
  if (analysis.coefficients.empty()) return;
  page.heading("Coefficients of " + analysis.activation);
  const std::size_t terms = analysis.coefficients.front().values.front().size();
  // Over layers, of the last checkpoint.
  Chart now{.title = "Coefficients by layer",
            .x = {.label = "layer", .whole = true},
            .y = {.label = "coefficient"}};
  for (std::size_t term = 0; term < terms; ++term) {
    Series series{.name = fmt::format("a{}", term), .style = Series::Style::line_points};
    for (const CoefficientHistory& history : analysis.coefficients) {
      if (history.expert > 0) continue;
      series.x.push_back(static_cast<double>(history.layer));
      series.y.push_back(history.values.back()[term]);
    }
    now.series.push_back(std::move(series));
  }
  page.figure(now, "At step " + std::to_string(analysis.step) + ".");
  for (const std::size_t i : shown_places(analysis.coefficients.size(), most)) {
    const CoefficientHistory& history = analysis.coefficients[i];
    if (history.steps.size() < 2) continue;
    Chart chart{.title = "Over time: " + history.name,
                .x = {.label = "step"},
                .y = {.label = "coefficient"}};
    for (std::size_t term = 0; term < terms; ++term) {
      Series series{.name = fmt::format("a{}", term), .style = Series::Style::line_points};
      for (std::size_t s = 0; s < history.steps.size(); ++s) {
        series.x.push_back(static_cast<double>(history.steps[s]));
        series.y.push_back(history.values[s][term]);
      }
      chart.series.push_back(std::move(series));
    }
    page.figure(chart);
  }
}

void add_activations(Page& page, const Analysis& analysis) {
  constexpr std::size_t most_layers = 6;
  page.heading("The activation on what it sees");
  const auto& layers = analysis.tokens->activations;
  for (const std::size_t i : shown_places(layers.size(), most_layers)) {
    const LayerActivation& layer = layers[i];
    const auto finite = [](double value) { return std::isfinite(value); };
    if (std::none_of(layer.y.begin(), layer.y.end(), finite)) continue;
    double lowest = 0.0, highest = 0.0, densest = 0.0;
    for (const double y : layer.y)
      if (finite(y)) {
        lowest = std::min(lowest, y);
        highest = std::max(highest, y);
      }
    for (const double density : layer.density) densest = std::max(densest, density);
    // The histogram is scaled to the curve: its own height says nothing.
    const double scale =
        densest > 0.0 ? (highest > lowest ? highest - lowest : 1.0) / densest : 0.0;
    Series histogram{.name = "how often (scaled)", .x = layer.x, .style = Series::Style::steps};
    for (const double density : layer.density) histogram.y.push_back(density * scale);
    page.figure(Chart{.title = fmt::format("{} in layer {}", analysis.activation, layer.layer),
                      .x = {.label = "pre-activation"},
                      .y = {.label = "mean result"},
                      .series = {histogram, {.name = "mean result", .x = layer.x, .y = layer.y}}},
                fmt::format("Pre-activations: mean {:.3f}, deviation {:.3f}.", layer.mean,
                            layer.deviation));
  }
}

void add_routing(Page& page, const Analysis& analysis, const Tokenizer* tokenizer) {
  constexpr std::size_t most_layers = 6, most_experts = 64;
  const std::vector<LayerRouting>& layers = analysis.tokens->routing;
  if (layers.empty()) return;
  page.heading("Routing");
  HeatMap load{.title = "Load of the experts",
               .x_label = "expert",
               .y_label = "layer with experts",
               .value_label = "tokens / mean",
               .rows = static_cast<std::int64_t>(layers.size()),
               .columns = layers.front().experts};
  for (const LayerRouting& layer : layers) {
    double sum = 0.0;
    for (const std::int64_t slots : layer.expert_tokens) sum += static_cast<double>(slots);
    for (const std::int64_t tokens : layer.expert_tokens)
      load.values.push_back(static_cast<double>(tokens) * static_cast<double>(layer.experts) / sum);
  }
  load.low = 0.0;
  load.center = 1.0;
  page.figure(load);
  if (!analysis.saturation.empty()) {
    Series series{.name = "share", .style = Series::Style::bars};
    Chart chart{.title = "Choices of experts in common with the other checkpoint",
                .x = {.label = "layer", .whole = true},
                .y = {.label = "share", .low = 0.0, .high = 1.0}};
    for (std::size_t i = 0; i < layers.size(); ++i) {
      series.x.push_back(static_cast<double>(layers[i].layer));
      series.y.push_back(analysis.saturation[i]);
    }
    chart.series.push_back(std::move(series));
    page.figure(chart);
  }
  for (const std::size_t i : shown_places(layers.size(), most_layers)) {
    const LayerRouting& layer = layers[i];
    if (layer.top_k < 2) continue;
    // Of the tokens that the row's expert took, the share that the column's took too.
    std::vector<double> shares(layer.together.size(), NAN);
    const auto count = static_cast<std::size_t>(layer.experts);
    for (std::size_t a = 0; a < count; ++a)
      for (std::size_t b = 0; b < count; ++b)
        if (a != b && layer.expert_tokens[a] > 0)
          shares[a * count + b] = static_cast<double>(layer.together[a * count + b]) /
                                  static_cast<double>(layer.expert_tokens[a]);
    page.figure(square(fmt::format("Experts that go together, layer {}", layer.layer), "expert",
                       "share of the row's tokens", shares, layer.experts));
  }
  const TokenAnalysis& seen = *analysis.tokens;
  for (const std::size_t i : shown_places(seen.outputs.size(), most_layers))
    if (seen.outputs[i].experts > 1)
      page.figure(
          between_experts("Results", seen.outputs[i]),
          fmt::format("Mean over {} tokens of the cosine between what two experts make of one.",
                      with_separators(seen.output_tokens)));
  for (const std::size_t i : shown_places(layers.size(), most_layers)) {
    const LayerRouting& layer = layers[i];
    Table table{.title = fmt::format("Tokens that the experts of layer {} take most", layer.layer),
                .columns = {"expert", "share of slots", "tokens"}};
    double sum = 0.0;
    for (const std::int64_t slots : layer.expert_tokens) sum += static_cast<double>(slots);
    for (std::size_t e = 0; e < std::min(layer.top_tokens.size(), most_experts); ++e) {
      std::string texts;
      for (const auto& [id, times] : layer.top_tokens[e])
        texts += fmt::format("{}\xE2\x80\x9C{}\xE2\x80\x9D", texts.empty() ? "" : "  ",
                             token_text(id, tokenizer));
      table.rows.push_back(
          {std::to_string(e),
           fmt::format("{:.1f} %", 100.0 * static_cast<double>(layer.expert_tokens[e]) / sum),
           texts});
    }
    page.table(table);
  }
}

}  // namespace

Page analysis_page(const Analysis& analysis, const Tokenizer* tokenizer) {
  Page page(fmt::format("Inside step {}", analysis.step));
  page.paragraph(analysis.checkpoint);
  if (analysis.tokens)
    page.paragraph(fmt::format("On {} tokens; loss {:.4f}.",
                               with_separators(analysis.tokens->tokens), analysis.tokens->loss));
  add_weights(page, analysis);
  add_coefficients(page, analysis);
  if (!analysis.tokens) return page;
  add_activations(page, analysis);
  page.heading("Hidden states");
  page.figure(square("Similarity of hidden states", "behind layer (0: the embedding)", "cosine",
                     analysis.tokens->similarity, analysis.tokens->states),
              "Mean over tokens of the cosine between the states of a token behind two layers.");
  add_routing(page, analysis, tokenizer);
  return page;
}

}  // namespace polymoe
