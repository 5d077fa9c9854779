// SPDX-License-Identifier: Apache-2.0
#include "launch/reports/run_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/values.h"
#include "launch/reports/drawing.h"
#include "launch/reports/figure.h"
#include "launch/reports/page.h"
#include "launch/reports/run_rows.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_rows = 3000;  // of a run

struct Run {
  std::string name;
  RunRows metrics;
  RunRows experts;  // tokens per expert and layer; no rows where the run did not write them
  std::vector<double> step, tokens, seconds;
};

/// Seconds of training since the start, from tokens and throughput.
std::vector<double> seconds_of(const RunRows& metrics) {
  const std::vector<double> tokens = metrics.column("tokens"),
                            rate = metrics.column("tokens_per_second");
  std::vector<double> seconds;
  double sum = 0.0, before = 0.0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (std::isfinite(rate[i]) && rate[i] > 0.0) sum += (tokens[i] - before) / rate[i];
    before = tokens[i];
    seconds.push_back(sum);
  }
  return seconds;
}

Run read_run(const fs::path& path) {
  const fs::path metrics = path / "metrics.jsonl";
  if (!fs::exists(metrics))
    throw InputFileError(path.string(), "is not the directory of a run: it has no metrics.jsonl");
  Run run;
  run.name = fs::weakly_canonical(path).filename().string();
  run.metrics = read_run_rows(metrics, most_rows, {"valid_loss", "eval/"});
  if (run.metrics.rows.empty()) throw InputFileError(metrics.string(), "has no rows");
  run.step = run.metrics.column("step");
  run.tokens = run.metrics.column("tokens");
  run.seconds = seconds_of(run.metrics);
  if (fs::exists(path / "experts.jsonl")) run.experts = read_run_rows(path / "experts.jsonl", 200);
  return run;
}

/// Names that are told apart: as much of the path as it takes.
void name_apart(std::vector<Run>& runs, const std::vector<fs::path>& paths) {
  std::map<std::string, int> count;
  for (const Run& run : runs) ++count[run.name];
  for (std::size_t i = 0; i < runs.size(); ++i)
    if (count[runs[i].name] > 1) {
      const fs::path whole = fs::weakly_canonical(paths[i]);
      runs[i].name = (whole.parent_path().filename() / whole.filename()).string();
    }
}

/// The mean that forgets what is further back than about a fiftieth of the points.
std::vector<double> smoothed(const std::vector<double>& values) {
  const double keep = 1.0 - std::min(1.0, 50.0 / std::max<double>(1.0, values.size()));
  std::vector<double> result;
  double mean = 0.0, weight = 0.0;
  for (const double value : values) {
    if (std::isfinite(value)) {
      mean = keep * mean + (1.0 - keep) * value;
      weight = keep * weight + (1.0 - keep);
    }
    result.push_back(weight > 0.0 ? mean / weight : value);
  }
  return result;
}

using Column = std::function<std::vector<double>(const Run&)>;

/// Every run's smoothed values, and the values themselves behind them.
Chart lines(const std::string& title, const Axis& x_axis, const Axis& y_axis,
            const std::vector<Run>& runs, const Column& x, const Column& y, bool smooth) {
  Chart chart{.title = title, .x = x_axis, .y = y_axis};
  std::vector<Series> above;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Series series{.name = runs[i].name, .x = x(runs[i]), .y = y(runs[i])};
    series.look = static_cast<int>(i);
    if (smooth) {
      Series raw = series;
      raw.faint = true;
      chart.series.push_back(std::move(raw));
      series.y = smoothed(series.y);
    }
    above.push_back(std::move(series));
  }
  // Lines lie over what is behind them.
  chart.series.insert(chart.series.end(), above.begin(), above.end());
  return chart;
}

void add(Page& page, const Chart& chart, const std::string& caption = "") {
  if (shows_something(chart)) page.figure(chart, caption);
}

Column metric(const std::string& key) {
  return [key](const Run& run) { return run.metrics.column(key); };
}
const Column steps = [](const Run& run) { return run.step; };
const Column tokens = [](const Run& run) { return run.tokens; };

/// A chart of few rows, each a point.
Chart sparse(const std::string& title, const Axis& y_axis, const std::vector<Run>& runs,
             const std::string& key) {
  Chart chart{.title = title, .x = {.label = "step"}, .y = y_axis};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Series series{
        .name = runs[i].name, .style = Series::Style::line_points, .look = static_cast<int>(i)};
    const std::vector<double> values = runs[i].metrics.column(key);
    for (std::size_t row = 0; row < values.size(); ++row)
      if (std::isfinite(values[row])) {
        series.x.push_back(runs[i].step[row]);
        series.y.push_back(values[row]);
      }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

/// The keys with that beginning that any run has.
std::vector<std::string> keys_of(const std::vector<Run>& runs, const std::string& prefix) {
  std::vector<std::string> all;
  for (const Run& run : runs)
    for (const std::string& key : run.metrics.keys(prefix))
      if (std::find(all.begin(), all.end(), key) == all.end()) all.push_back(key);
  return all;
}

void add_summary(Page& page, const std::vector<Run>& runs) {
  Table table{
      .columns = {"run", "steps", "tokens", "loss", "best validation", "tokens/s", "hours"}};
  const auto text = [](double value, const char* format) {
    return std::isfinite(value) ? fmt::format(fmt::runtime(format), value) : std::string("-");
  };
  for (const Run& run : runs) {
    double best = std::numeric_limits<double>::infinity();
    for (const double value : run.metrics.column("valid_loss"))
      if (std::isfinite(value)) best = std::min(best, value);
    std::vector<double> rates = run.metrics.column("tokens_per_second");
    std::erase_if(rates, [](double rate) { return !std::isfinite(rate); });
    std::sort(rates.begin(), rates.end());
    const double rate =
        rates.empty() ? std::numeric_limits<double>::quiet_NaN() : rates[rates.size() / 2];
    table.rows.push_back({run.name, with_separators(static_cast<std::int64_t>(run.step.back())),
                          with_separators(static_cast<std::int64_t>(run.tokens.back())),
                          text(smoothed(run.metrics.column("loss")).back(), "{:.4f}"),
                          text(best, "{:.4f}"), text(rate, "{:.0f}"),
                          text(run.seconds.back() / 3600.0, "{:.2f}")});
  }
  page.table(table);
}

void add_loss(Page& page, const std::vector<Run>& runs) {
  page.heading("Loss");
  const std::string caption = "Thick: the mean that forgets; thin: single steps.";
  const Axis step{.label = "step"}, loss{.label = "loss (nats)"};
  add(page, lines("Training loss by step", step, loss, runs, steps, metric("loss"), true), caption);
  add(page,
      lines("Training loss by tokens", {.label = "tokens", .logarithmic = true},
            {.label = "loss (nats)", .logarithmic = true}, runs, tokens, metric("loss"), true),
      "Both axes logarithmic.");
  const Column hours = [](const Run& run) {
    std::vector<double> values = run.seconds;
    for (double& value : values) value /= 3600.0;
    return values;
  };
  add(page,
      lines("Training loss by time", {.label = "hours of training"}, loss, runs, hours,
            metric("loss"), true),
      caption);
  add(page, sparse("Validation loss", loss, runs, "valid_loss"));
  const std::vector<std::string> files = keys_of(runs, "valid_loss/");
  if (files.size() > 1)
    for (const std::string& file : files)
      add(page, sparse("Validation loss of " + file.substr(file.find('/') + 1), loss, runs, file));
}

void add_tasks(Page& page, const std::vector<Run>& runs) {
  constexpr std::size_t most_figures = 24;
  std::vector<std::string> keys = keys_of(runs, "eval/");
  // One normalisation of each task, and what stands alone.
  std::erase_if(keys, [](const std::string& key) {
    return key.ends_with("_stderr") ||
           (key.find("/acc_") != std::string::npos && !key.ends_with("/acc_per_char"));
  });
  if (keys.empty()) return;
  page.heading("Tasks");
  if (keys.size() > most_figures) keys.resize(most_figures);
  for (const std::string& key : keys) {
    const std::size_t slash = key.rfind('/');
    std::string score = key.substr(slash + 1);
    std::replace(score.begin(), score.end(), '_', ' ');
    add(page, sparse(key.substr(5, slash - 5) + ": " + score, {.label = score}, runs, key));
  }
}

void add_optimization(Page& page, const std::vector<Run>& runs) {
  page.heading("Optimization");
  const Axis step{.label = "step"};
  add(page,
      lines("Learning rate", step, {.label = "learning rate"}, runs, steps, metric("lr"), false));
  add(page, lines("Gradient norm", step, {.label = "norm before clipping", .logarithmic = true},
                  runs, steps, metric("grad_norm"), true));
  add(page, lines("Balance loss", step, {.label = "balance loss", .logarithmic = true}, runs, steps,
                  metric("aux_loss"), true));
}

void add_speed(Page& page, const std::vector<Run>& runs) {
  page.heading("Speed");
  const Axis step{.label = "step"};
  add(page, lines("Throughput", step, {.label = "tokens per second", .low = 0.0}, runs, steps,
                  metric("tokens_per_second"), true));
  add(page, lines("Share of the machine's product rate", step, {.label = "share", .low = 0.0}, runs,
                  steps, metric("mfu"), true));
  const Json* seconds = runs.front().metrics.rows.back().find("step_seconds");
  if (seconds == nullptr || !seconds->is_object()) return;
  Chart phases{.title = "Where a step's time goes", .y = {.label = "seconds", .low = 0.0}};
  for (const Json::Member& phase : seconds->members()) {
    phases.x.places.push_back(phase.key);
    std::replace(phases.x.places.back().begin(), phases.x.places.back().end(), '_', ' ');
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Series series{.name = runs[i].name, .style = Series::Style::bars, .look = static_cast<int>(i)};
    for (std::size_t p = 0; p < seconds->members().size(); ++p) {
      std::vector<double> values =
          runs[i].metrics.column("step_seconds", seconds->members()[p].key);
      std::erase_if(values, [](double value) { return !std::isfinite(value); });
      if (values.empty()) continue;
      std::nth_element(values.begin(),
                       values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                       values.end());
      series.x.push_back(static_cast<double>(p));
      series.y.push_back(values[values.size() / 2]);
    }
    phases.series.push_back(std::move(series));
  }
  add(page, phases, "Medians over the steps, of rank 0.");
}

/// Layers against time: entry l of the array `key` of each row.
HeatMap layers_over_time(const Run& run, const std::string& title, const std::string& key,
                         const std::string& label) {
  constexpr std::size_t most_columns = 150;
  const std::size_t rows = run.metrics.rows.size(),
                    stride = std::max<std::size_t>(1, rows / most_columns);
  HeatMap map{.title = title,
              .x_label = "step",
              .y_label = "layer with experts",
              .value_label = label,
              .rows = static_cast<std::int64_t>(run.metrics.entries(key))};
  for (std::size_t i = 0; i < rows; i += stride) map.column_places.push_back(run.step[i]);
  map.columns = static_cast<std::int64_t>(map.column_places.size());
  for (std::size_t layer = 0; layer < static_cast<std::size_t>(map.rows); ++layer) {
    const std::vector<double> values = run.metrics.column(key, layer);
    for (std::size_t i = 0; i < rows; i += stride) map.values.push_back(values[i]);
  }
  return map;
}

/// Experts against time: share of a layer's tokens over the mean share.
HeatMap experts_over_time(const Run& run, std::size_t layer) {
  const RunRows& rows = run.experts;
  const Json& last = rows.rows.back();
  const std::int64_t number = last.at("layers").items()[layer].as_integer();
  const std::size_t experts = last.at("expert_tokens").items()[layer].items().size();
  HeatMap map{.title = fmt::format("Load of the experts of layer {}", number),
              .x_label = "step",
              .y_label = "expert",
              .value_label = "tokens / mean",
              .rows = static_cast<std::int64_t>(experts),
              .columns = static_cast<std::int64_t>(rows.rows.size()),
              .low = 0.0,
              .center = 1.0};
  map.column_places = rows.column("step");
  map.values.assign(experts * rows.rows.size(), std::numeric_limits<double>::quiet_NaN());
  double highest = 2.0;
  for (std::size_t column = 0; column < rows.rows.size(); ++column) {
    const std::vector<Json>& counts =
        rows.rows[column].at("expert_tokens").items().at(layer).items();
    double sum = 0.0;
    for (const Json& count : counts) sum += count.as_number();
    if (counts.size() != experts || !(sum > 0.0)) continue;
    for (std::size_t e = 0; e < experts; ++e) {
      const double load = counts[e].as_number() * static_cast<double>(experts) / sum;
      map.values[e * rows.rows.size() + column] = load;
      highest = std::max(highest, load);
    }
  }
  map.high = highest;
  return map;
}

void add_routing(Page& page, const std::vector<Run>& runs) {
  constexpr std::size_t most_runs = 4, most_layers = 6;
  std::size_t shown = 0;
  for (const Run& run : runs) {
    if (run.metrics.entries("routing_entropy") == 0 || shown++ == most_runs) continue;
    page.heading("Routing of " + run.name);
    page.figure(layers_over_time(run, "Fullest expert over the mean", "load_max_over_mean",
                                 "load of the fullest / mean"));
    page.figure(
        layers_over_time(run, "Entropy of the routing", "routing_entropy", "entropy (nats)"));
    if (run.experts.rows.empty()) continue;
    try {
      const std::size_t layers = run.experts.entries("expert_tokens");
      const std::size_t count = std::min(layers, most_layers);
      for (std::size_t i = 0; i < count; ++i)
        page.figure(experts_over_time(run, count < 2 ? 0 : i * (layers - 1) / (count - 1)));
    } catch (const std::exception& error) {
      throw InputFileError(run.name + "/experts.jsonl", error.what());
    }
  }
}

}  // namespace

RunReport report_runs(const std::vector<fs::path>& paths) {
  std::vector<Run> runs;
  RunReport report;
  for (const fs::path& path : paths) {
    runs.push_back(read_run(path));
    const Run& run = runs.back();
    if (run.metrics.torn)
      report.notes.push_back(fmt::format(
          "{}: the last row of metrics.jsonl is unfinished, as a crash leaves it, and left out",
          path.string()));
  }
  name_apart(runs, paths);
  Page page(runs.size() == 1 ? "Run " + runs.front().name : fmt::format("{} runs", runs.size()));
  for (const std::string& note : report.notes) page.paragraph(note);
  add_summary(page, runs);
  add_loss(page, runs);
  add_tasks(page, runs);
  add_optimization(page, runs);
  add_speed(page, runs);
  add_routing(page, runs);
  report.html = page.html();
  report.figures = page.figures();
  return report;
}

}  // namespace polymoe
