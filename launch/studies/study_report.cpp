// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/study_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/option_table.h"
#include "launch/config/values.h"
#include "launch/reports/figure.h"
#include "launch/reports/page.h"
#include "launch/studies/cell_result.h"
#include "launch/studies/cell_state.h"
#include "launch/studies/comparison.h"
#include "launch/studies/statistics.h"
#include "launch/studies/study.h"
#include "launch/studies/study_costs.h"
#include "moe/model_config.h"
#include "moe/model_size.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

/// A field of a line of comma-separated values.
std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string result = "\"";
  for (const char c : text) result += c == '"' ? std::string("\"\"") : std::string(1, c);
  return result + "\"";
}

std::string number(const std::optional<double>& value) {
  return value && std::isfinite(*value) ? shortest(*value) : "";
}

std::int64_t embedding_parameters(const ModelConfig& model) {
  return model.vocab * model.hidden * (model.tied ? 1 : 2);
}

Json as_json(const Estimate& estimate) {
  return std::move(Json::object()
                       .set("count", estimate.count)
                       .set("mean", estimate.mean)
                       .set("deviation", estimate.deviation)
                       .set("low_95", estimate.low())
                       .set("high_95", estimate.high()));
}

std::string with_interval(const Estimate& estimate, bool sign) {
  if (estimate.count == 0) return "-";
  std::string text =
      sign ? fmt::format("{:+.4f}", estimate.mean) : fmt::format("{:.4f}", estimate.mean);
  return text + (estimate.count < 2 ? " (one seed: no interval)"
                                    : fmt::format(" +- {:.4f}", estimate.half_width));
}

const char* verdict(const Estimate& difference) {
  if (difference.count < 2) return "not known";
  if (difference.high() < 0.0) return "lower";
  return difference.low() > 0.0 ? "higher" : "not distinguished";
}

std::string marks_of(const CellResult& result) {
  std::string marks;
  if (result.diverged) marks += " diverged";
  if (result.spikes > 0) marks += fmt::format(" {} spikes", result.spikes);
  return marks;
}

std::string multiplier_text(const PairedDifference& difference) {
  if (!difference.multiplier) return "-";
  return fmt::format("{:.3f}{}", *difference.multiplier, difference.by_curve ? " (by curves)" : "");
}

const char* measure(const Comparison& comparison) {
  return comparison.by_validation ? "validation loss of the last step"
                                  : "training loss, mean of the last twentieth of the steps";
}

Table group_table(const Study& study, const Comparison& comparison) {
  Table table{
      .title = "Final losses", .columns = {"cells", "seeds", "loss, 95 % interval"}, .rows = {}};
  for (const SeedGroup& group : comparison.groups)
    table.rows.push_back({name_of(study, group),
                          fmt::format("{} of {}", group.results.size(), group.expected),
                          with_interval(group.loss, false)});
  return table;
}

Table difference_table(const Study& study, const Comparison& comparison) {
  Table table{.title = "Differences from " + study.baseline.value_or(""),
              .columns = {"cells", "pairs", "difference, 95 % interval", "loss is",
                          "efficiency multiplier"},
              .rows = {}};
  for (const PairedDifference& difference : comparison.differences)
    table.rows.push_back({name_of(study, comparison.groups[difference.group]),
                          std::to_string(difference.difference.count),
                          with_interval(difference.difference, true),
                          verdict(difference.difference), multiplier_text(difference)});
  return table;
}

Table cell_table(const Study& study, const std::vector<CellResult>& results) {
  Table table{.title = "Cells",
              .columns = {"cell", "state", "steps", "training loss", "validation loss", "marks"},
              .rows = {}};
  for (const CellResult& result : results) {
    const Cell& cell = study.cells[result.cell];
    const auto loss = [](const std::optional<double>& value) {
      return value ? fmt::format("{:.4f}", *value) : std::string("-");
    };
    std::string state = name_of(result.state.kind);
    if (result.state.kind == CellState::Kind::failed)
      state += fmt::format(" ({}): {}", *result.state.exit_code, result.state.last_line);
    table.rows.push_back(
        {cell.name, state,
         fmt::format("{} of {}", result.curve.loss.size(), cell.config.train.steps),
         loss(result.train_loss), loss(result.valid_loss), marks_of(result)});
  }
  return table;
}

std::string as_text(const Table& table) {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    widths.push_back(table.columns[c].size());
    for (const auto& row : table.rows) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text = "\n" + table.title + "\n";
  const auto add = [&](const std::vector<std::string>& row) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) line += fmt::format("  {:<{}}", row[c], widths[c]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  add(table.columns);
  for (const auto& row : table.rows) add(row);
  return text;
}

/// Mean and range over the seeds of a group.
Series curve_of(const std::string& name, const std::vector<CellResult>& results,
                const SeedGroup& group) {
  Series series{.name = name};
  for (const std::size_t index : group.results) {
    const std::vector<double> loss = smoothed(results[index].curve.loss);
    if (series.y.empty()) {
      series.x = results[index].curve.tokens;
      series.y.assign(loss.size(), 0.0);
      series.low.assign(loss.size(), std::numeric_limits<double>::infinity());
      series.high.assign(loss.size(), -std::numeric_limits<double>::infinity());
    }
    const std::size_t length = std::min(loss.size(), series.y.size());
    for (auto* values : {&series.x, &series.y, &series.low, &series.high}) values->resize(length);
    for (std::size_t i = 0; i < length; ++i) {
      series.y[i] += loss[i] / static_cast<double>(group.results.size());
      series.low[i] = std::min(series.low[i], loss[i]);
      series.high[i] = std::max(series.high[i], loss[i]);
    }
  }
  return series;
}

Series with_bars(const std::vector<Estimate>& estimates) {
  Series series{.name = "", .style = Series::Style::points, .spread = Series::Spread::bars};
  for (std::size_t i = 0; i < estimates.size(); ++i) {
    series.x.push_back(static_cast<double>(i));
    series.y.push_back(estimates[i].mean);
    const bool known = estimates[i].count > 1;
    series.low.push_back(known ? estimates[i].low() : estimates[i].mean);
    series.high.push_back(known ? estimates[i].high() : estimates[i].mean);
  }
  return series;
}

/// Groups of one picture of curves: they differ in the compared axis alone.
std::vector<std::vector<std::size_t>> pictures_of(const Study& study,
                                                  const Comparison& comparison) {
  std::vector<std::vector<std::size_t>> pictures;
  for (std::size_t g = 0; g < comparison.groups.size(); ++g) {
    const SeedGroup& group = comparison.groups[g];
    if (group.results.empty()) continue;
    const auto fits = [&](const std::vector<std::size_t>& picture) {
      const SeedGroup& other = comparison.groups[picture.front()];
      for (std::size_t a = 0; a < group.values.size(); ++a)
        if (a != study.compared_axis && group.values[a] != other.values[a]) return false;
      return group.tokens == other.tokens;
    };
    const auto found = std::find_if(pictures.begin(), pictures.end(), fits);
    if (found == pictures.end())
      pictures.push_back({g});
    else
      found->push_back(g);
  }
  return pictures;
}

/// What the groups of a picture share, for its title.
std::string shared_name(const Study& study, const SeedGroup& group) {
  std::string name;
  for (std::size_t a = 0; a < group.values.size(); ++a)
    if (a != study.compared_axis) name += study.axes[a].values[group.values[a]].label + ", ";
  return name + with_separators(group.tokens) + " tokens";
}

std::string label_of(const Study& study, const SeedGroup& group) {
  if (study.axes.empty()) return "all seeds";
  return study.axes[study.compared_axis].values[group.values[study.compared_axis]].label;
}

}  // namespace

std::string runs_csv(const Study& study, const std::vector<CellResult>& results) {
  const std::vector<CellCost> costs = plan_cells(study);
  std::string text = "study,cell,trunk";
  for (const StudyAxis& axis : study.axes) text += "," + quoted(axis.name);
  text +=
      ",seed,ranks,activation,layers,hidden,experts,top_k,expert_width,total_parameters,"
      "active_parameters,embedding_parameters,tokens,flops,state,steps,train_loss,valid_loss,"
      "diverged,spikes\n";
  for (const CellResult& result : results) {
    const Cell& cell = study.cells[result.cell];
    if (cell.kind == CellKind::trunk) continue;
    const ModelConfig& model = cell.config.model;
    text += quoted(study.file.stem().string()) + "," + quoted(cell.name) + "," +
            quoted(cell.kind == CellKind::branch ? study.cells[cell.trunk].name : cell.name);
    for (const std::string& label : study.labels(cell)) text += "," + quoted(label);
    text +=
        fmt::format(",{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", cell.seed,
                    cell.ranks, find_option("model.activation")->print(cell.config), model.layers,
                    model.hidden, model.moe.experts, model.moe.experts > 0 ? model.moe.top_k : 0,
                    model.moe.experts > 0 ? model.expert_width() : model.dense_width(),
                    costs[result.cell].total_parameters, costs[result.cell].active_parameters,
                    embedding_parameters(model), cell.tokens(),
                    shortest(training_flops_per_token(model) * static_cast<double>(cell.tokens())),
                    name_of(result.state.kind), result.curve.loss.size(), number(result.train_loss),
                    number(result.valid_loss), result.diverged, result.spikes);
  }
  return text;
}

Json results_json(const Study& study, const std::vector<CellResult>& results,
                  const Comparison& comparison) {
  Json groups = Json::array();
  for (const SeedGroup& group : comparison.groups) {
    Json values = Json::object();
    for (std::size_t a = 0; a < group.values.size(); ++a)
      values.set(study.axes[a].name, study.axes[a].values[group.values[a]].label);
    groups.add(std::move(Json::object()
                             .set("values", std::move(values))
                             .set("tokens", group.tokens)
                             .set("flops", group.flops)
                             .set("cells", group.expected)
                             .set("loss", as_json(group.loss))));
  }
  Json differences = Json::array();
  for (const PairedDifference& difference : comparison.differences) {
    Json entry = Json::object();
    entry.set("group", difference.group)
        .set("baseline", difference.baseline)
        .set("difference", as_json(difference.difference))
        .set("efficiency_multiplier",
             difference.multiplier ? Json(*difference.multiplier) : Json());
    if (difference.multiplier)
      entry.set("multiplier_from", difference.by_curve ? "curves" : "levels of compute");
    differences.add(std::move(entry));
  }
  Json cells = Json::array();
  for (const CellResult& result : results) {
    const auto loss = [](const std::optional<double>& value) {
      return value ? Json(*value) : Json();
    };
    cells.add(std::move(Json::object()
                            .set("cell", study.cells[result.cell].name)
                            .set("state", name_of(result.state.kind))
                            .set("steps", result.curve.loss.size())
                            .set("train_loss", loss(result.train_loss))
                            .set("valid_loss", loss(result.valid_loss))
                            .set("diverged", result.diverged)
                            .set("spikes", result.spikes)));
  }
  return std::move(Json::object()
                       .set("study", study.file.string())
                       .set("loss", measure(comparison))
                       .set("baseline", study.baseline ? Json(*study.baseline) : Json())
                       .set("groups", std::move(groups))
                       .set("differences", std::move(differences))
                       .set("cells", std::move(cells)));
}

std::string report_text(const Study& study, const std::vector<CellResult>& results,
                        const Comparison& comparison) {
  std::size_t finished = 0;
  for (const CellResult& result : results)
    finished += result.state.kind == CellState::Kind::finished ? 1 : 0;
  std::string text = fmt::format("{}: {} of {} cells are finished; loss: {}\n", study.file.string(),
                                 finished, results.size(), measure(comparison));
  text += as_text(group_table(study, comparison));
  if (!comparison.differences.empty()) text += as_text(difference_table(study, comparison));
  Table open = cell_table(study, results);
  open.title = "Unfinished, diverged or spiked";
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < results.size(); ++i)
    if (results[i].state.kind != CellState::Kind::finished || !marks_of(results[i]).empty())
      rows.push_back(open.rows[i]);
  open.rows = std::move(rows);
  return open.rows.empty() ? text : text + as_text(open);
}

std::string report_html(const Study& study, const std::vector<CellResult>& results,
                        const Comparison& comparison) {
  Page page("Study " + study.file.stem().string());
  page.paragraph(
      fmt::format("Loss: {}. Intervals are Student's at 95 % over seeds; differences are "
                  "paired by seed, which fixes the samples and their order.",
                  measure(comparison)));
  for (const std::vector<std::size_t>& picture : pictures_of(study, comparison)) {
    const SeedGroup& first = comparison.groups[picture.front()];
    Chart chart{.title = "Training loss: " + shared_name(study, first),
                .x = {.label = "tokens"},
                .y = {.label = "loss, nats"},
                .series = {}};
    double lowest = std::numeric_limits<double>::infinity(), middle = 0.0;
    for (const std::size_t g : picture) {
      chart.series.push_back(
          curve_of(label_of(study, comparison.groups[g]), results, comparison.groups[g]));
      const std::vector<double>& y = chart.series.back().y;
      lowest = std::min(lowest, *std::min_element(y.begin(), y.end()));
      middle = std::max(middle, y[y.size() / 8]);
    }
    chart.y.low = lowest - 0.05 * (middle - lowest);
    chart.y.high = middle;
    page.figure(chart,
                "Mean over seeds and their range, smoothed over a twentieth of the run; the "
                "first eighth rises above the picture.");
  }
  if (!comparison.differences.empty()) {
    Chart chart{.title = "Difference from " + *study.baseline,
                .x = {},
                .y = {.label = "loss minus the baseline's, nats"},
                .series = {}};
    std::vector<Estimate> estimates;
    for (const PairedDifference& difference : comparison.differences) {
      if (difference.difference.count == 0) continue;
      chart.x.places.push_back(name_of(study, comparison.groups[difference.group]));
      estimates.push_back(difference.difference);
    }
    chart.series.push_back(with_bars(estimates));
    if (!estimates.empty()) page.figure(chart, "Bars: 95 % interval of the mean over pairs.");
    page.table(difference_table(study, comparison));
  }
  page.table(group_table(study, comparison));
  page.table(cell_table(study, results));
  return page.html();
}

}  // namespace polymoe
