// SPDX-License-Identifier: Apache-2.0
#include "launch/scaling/runs.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/values.h"
#include "launch/scaling/form.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

/// A line of the file by its columns' names.
struct Record {
  std::string where;  // file and line
  std::map<std::string, std::string> fields;

  const std::string& text(const std::string& column) const { return fields.at(column); }
  double number(const std::string& column) const {
    const auto value = parse_real(text(column));
    if (!value || *value < 0.0)
      throw InputFileError(where,
                           fmt::format("{} = '{}' must be a number >= 0", column, text(column)));
    return *value;
  }
};

std::vector<Record> read_records(const RunTable& table) {
  std::istringstream lines(table.text);
  std::string line;
  std::getline(lines, line);
  const std::vector<std::string> columns = split_csv_line(line);
  for (const char* needed : {"trunk", "activation", "experts", "top_k", "hidden", "expert_width",
                             "total_parameters", "active_parameters", "embedding_parameters",
                             "tokens", "flops", "state", "train_loss", "valid_loss", "diverged"})
    if (std::find(columns.begin(), columns.end(), needed) == columns.end())
      throw InputFileError(
          table.name,
          fmt::format("has no column '{}': not what `polymoe study report` writes", needed));
  std::vector<Record> records;
  for (int number = 2; std::getline(lines, line); ++number) {
    const std::vector<std::string> fields = split_csv_line(line);
    Record record{.where = fmt::format("{}:{}", table.name, number), .fields = {}};
    if (fields.size() != columns.size())
      throw InputFileError(record.where, fmt::format("has {} fields, the first line {}",
                                                     fields.size(), columns.size()));
    for (std::size_t i = 0; i < fields.size(); ++i) record.fields[columns[i]] = fields[i];
    if (record.text("state") == "finished" && record.text("diverged") == "false")
      records.push_back(std::move(record));
  }
  return records;
}

ScalingRun run_of(const Record& record, ParameterCount count, bool by_validation) {
  const double embedding = record.number("embedding_parameters");
  const double total = record.number("total_parameters");
  const double active = record.number("active_parameters");
  ScalingRun run;
  run.name = record.where;
  run.trunk = record.text("trunk");
  run.label = record.text("activation");
  switch (count) {
    case ParameterCount::active:
      run.parameters = active;
      break;
    case ParameterCount::active_no_embeddings:
      run.parameters = active - embedding;
      break;
    case ParameterCount::total:
      run.parameters = total;
      break;
    case ParameterCount::total_no_embeddings:
      run.parameters = total - embedding;
      break;
  }
  run.memory_parameters = total;
  run.tokens = record.number("tokens");
  run.flops = record.number("flops");
  if (const double experts = record.number("experts"); experts > 0.0) {
    run.experts = experts / std::max(record.number("top_k"), 1.0);
    // The width of a dense feed-forward over an expert's, as Krajewski et al. have it: 4 hidden.
    run.granularity = 4.0 * record.number("hidden") / record.number("expert_width");
  }
  run.loss = record.number(by_validation ? "valid_loss" : "train_loss");
  for (const double value : {run.parameters, run.tokens, run.flops, run.loss})
    if (!(value > 0.0))
      throw InputFileError(record.where, "parameters, tokens, flops and loss must be > 0");
  return run;
}

}  // namespace

std::optional<ParameterCount> parse_parameter_count(const std::string& text) {
  for (const ParameterCount count : {ParameterCount::active, ParameterCount::active_no_embeddings,
                                     ParameterCount::total, ParameterCount::total_no_embeddings})
    if (text == name_of(count)) return count;
  return std::nullopt;
}

const char* name_of(ParameterCount count) {
  switch (count) {
    case ParameterCount::active:
      return "active";
    case ParameterCount::active_no_embeddings:
      return "active-no-embeddings";
    case ParameterCount::total:
      return "total";
    case ParameterCount::total_no_embeddings:
      break;
  }
  return "total-no-embeddings";
}

std::vector<std::string> split_csv_line(const std::string& line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"' && quoted && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += '"';
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else if (c != '\r') {
      fields.back() += c;
    }
  }
  return fields;
}

std::vector<ScalingRun> read_scaling_runs(const std::vector<RunTable>& tables, ParameterCount count,
                                          const std::string& activation) {
  std::vector<Record> records;
  std::set<std::string> activations;
  for (const RunTable& table : tables)
    for (Record& record : read_records(table)) {
      activations.insert(record.text("activation"));
      if (activation.empty() || record.text("activation") == activation)
        records.push_back(std::move(record));
    }
  std::string known;
  for (const std::string& name : activations) known += (known.empty() ? "" : ", ") + name;
  if (activation.empty() && activations.size() > 1)
    throw InvalidArgument("--activation: the runs have several (" + known +
                          "); a law is of one of them");
  if (!activation.empty() && records.empty())
    throw InvalidArgument("--activation " + activation + ": no finished run has it" +
                          (known.empty() ? std::string() : "; must be one of " + known));
  const bool by_validation = std::all_of(records.begin(), records.end(), [](const Record& record) {
    return !record.text("valid_loss").empty();
  });
  std::vector<ScalingRun> runs;
  for (const Record& record : records) runs.push_back(run_of(record, count, by_validation));
  return runs;
}

}  // namespace polymoe
