// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/cell_result.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/machine/exit_code.h"
#include "launch/studies/cell_state.h"
#include "launch/studies/study.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

/// A row of metrics.jsonl, as far as it is needed.
struct Row {
  std::int64_t step = 0;
  double tokens = 0.0;
  double loss = 0.0;
  std::optional<double> valid_loss;
};

std::vector<Row> read_rows(const fs::path& file) {
  std::vector<Row> rows;
  std::ifstream stream(file);
  std::string line;
  for (std::int64_t number = 1; std::getline(stream, line); ++number) {
    const bool cut_off = stream.eof();  // no end of line behind it
    try {
      const Json json = parse_json(line, file.string() + ":" + std::to_string(number));
      // The loss of a step that was skipped, as it was not finite, is null.
      const bool skipped = json.at("loss").is_null();
      if (skipped && rows.empty()) continue;
      Row row{.step = json.at("step").as_integer(),
              .tokens = json.at("tokens").as_number(),
              .loss = skipped ? rows.back().loss : json.at("loss").as_number(),
              .valid_loss = {}};
      if (const Json* valid = json.find("valid_loss")) row.valid_loss = valid->as_number();
      rows.push_back(row);
    } catch (const Error& error) {
      if (!cut_off) throw InputFileError(file.string(), error.what());
    }
  }
  return rows;
}

fs::path metrics_of(const Cell& cell) { return fs::path(cell.config.run.dir) / "metrics.jsonl"; }

std::size_t twentieth(std::size_t steps) { return std::max<std::size_t>(steps / 20, 1); }

}  // namespace

std::vector<double> smoothed(const std::vector<double>& loss) {
  const std::size_t window = twentieth(loss.size());
  std::vector<double> means;
  double sum = 0.0;
  for (std::size_t i = 0; i < loss.size(); ++i) {
    sum += loss[i];
    if (i >= window) sum -= loss[i - window];
    means.push_back(sum / static_cast<double>(std::min(i + 1, window)));
  }
  return means;
}

bool ends_high(const std::vector<double>& loss) {
  constexpr double rise = 0.5;
  const std::vector<double> means = smoothed(loss);
  return !means.empty() && means.back() > *std::min_element(means.begin(), means.end()) + rise;
}

std::int64_t count_spikes(const std::vector<double>& loss) {
  constexpr std::size_t before = 32;
  constexpr double least = 0.5, deviations = 6.0;
  std::int64_t spikes = 0;
  std::size_t calm_from = before;  // a spike inflates the spread behind it
  for (std::size_t i = before; i < loss.size(); ++i) {
    if (i < calm_from) continue;
    double sum = 0.0, squares = 0.0;
    for (std::size_t j = i - before; j < i; ++j) {
      sum += loss[j];
      squares += loss[j] * loss[j];
    }
    const double mean = sum / before;
    const double deviation = std::sqrt(std::max(squares / before - mean * mean, 0.0));
    if (loss[i] <= mean + std::max(least, deviations * deviation)) continue;
    ++spikes;
    calm_from = i + before;
  }
  return spikes;
}

std::vector<CellResult> read_results(const Study& study) {
  std::vector<CellResult> results;
  for (std::size_t i = 0; i < study.cells.size(); ++i) {
    const Cell& cell = study.cells[i];
    CellResult result;
    result.cell = i;
    result.state = state_of(cell);
    std::vector<Row> rows;
    if (cell.kind == CellKind::branch && fs::exists(metrics_of(cell)))
      for (const Row& row : read_rows(metrics_of(study.cells[cell.trunk])))
        if (row.step <= cell.fork) rows.push_back(row);
    for (const Row& row : read_rows(metrics_of(cell))) rows.push_back(row);
    for (const Row& row : rows) {
      result.curve.tokens.push_back(row.tokens);
      result.curve.loss.push_back(row.loss);
    }
    result.spikes = count_spikes(result.curve.loss);
    result.diverged = result.state.exit_code == exit_not_finite || ends_high(result.curve.loss);
    if (!rows.empty()) {
      result.train_loss = smoothed(result.curve.loss).back();
      result.valid_loss = rows.back().valid_loss;
    }
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace polymoe
