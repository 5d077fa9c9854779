// SPDX-License-Identifier: Apache-2.0
#include "launch/config/config.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ios>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/ini.h"
#include "launch/config/option.h"
#include "launch/config/option_table.h"
#include "launch/config/schedule.h"
#include "launch/config/suggestion.h"
#include "launch/config/values.h"
#include "moe/model_config.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/rounding.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

const char* const command_line = "command line";

/// Applies assignments and collects what is wrong with them.
class Reader {
 public:
  explicit Reader(Config& config) : config_(config) {}

  void apply(const std::vector<Assignment>& assignments, const std::string& origin) {
    std::set<std::string> seen, repeated;
    for (const Assignment& assignment : assignments) {
      if (!seen.insert(assignment.key).second) {
        if (repeated.insert(assignment.key).second)
          lines_.push_back(assignment.key + " (" + origin + "): given more than once");
        continue;
      }
      const std::string given = assignment.key + " = " + assignment.value + " (" + origin + ")";
      const Option* option = find_option(assignment.key);
      if (assignment.key == "run.deterministic") {
        // Earlier versions wrote the key into every configuration, and it did nothing.
        if (assignment.value != "true")
          lines_.push_back(given + ": every run gives the same bits again; leave the key out");
      } else if (option == nullptr) {
        const std::string meant = suggested_key(assignment.key);
        lines_.push_back(given + ": unknown key" +
                         (meant.empty() ? "; polymoe train --help lists them"
                                        : "; did you mean " + meant + "?"));
      } else if (!option->read(assignment.value, config_)) {
        lines_.push_back(given + ": must be " + option->allowed);
        refused_.insert(assignment.key);
      }
    }
  }

  /// What a configuration that was not read says, as if it had been read.
  void reread(const Option& option) {
    const std::string value = option.print(config_);
    if (option.read(value, config_)) return;
    lines_.push_back(option.key + " = " + value + ": must be " + option.allowed);
    refused_.insert(option.key);
  }

  /// Adds checks between keys; a line about a key that was refused already says nothing new.
  void add(const std::vector<std::string>& lines) {
    for (const std::string& line : lines)
      if (!refused_.contains(line.substr(0, line.find(' ')))) lines_.push_back(line);
  }

  const std::vector<std::string>& lines() const { return lines_; }

 private:
  Config& config_;
  std::vector<std::string> lines_;
  std::set<std::string> refused_;
};

bool is_of_the_model(const Option& option) {
  return option.key.starts_with("model.") || option.key.starts_with("moe.");
}

bool names_file(const DataConfig& data, const std::string& path) {
  const auto holds = [&](const std::vector<WeightedFile>& files) {
    return std::any_of(files.begin(), files.end(),
                       [&](const WeightedFile& file) { return file.path == path; });
  };
  return holds(data.train) || std::any_of(data.stages.begin(), data.stages.end(),
                                          [&](const auto& stage) { return holds(stage.files); });
}

// What the keys must be for one another, whatever the number of ranks.
std::vector<std::string> cross_violations(const Config& config) {
  Violations found;
  const TrainConfig& train = config.train;
  for (const std::string& line : config.model.violations()) found.add(line);
  if (config.model.moe.experts % config.parallel.expert != 0)
    found.must_be("parallel.expert", config.parallel.expert,
                  "a divisor of moe.experts (" + std::to_string(config.model.moe.experts) + ")");
  if (config.parallel.expert_node > 0 && config.parallel.expert % config.parallel.expert_node != 0)
    found.must_be(
        "parallel.expert_node", config.parallel.expert_node,
        "0 or a divisor of parallel.expert (" + std::to_string(config.parallel.expert) + ")");
  if (train.micro_batch > 0 && train.global_batch % train.micro_batch != 0)
    found.must_be("train.global_batch", train.global_batch,
                  "a multiple of train.micro_batch (" + std::to_string(train.micro_batch) + ")");
  for (const WeightedFile& cap : config.data.max_epochs)
    if (!names_file(config.data, cap.path))
      found.must_be("data.max_epochs", cap.path,
                    "a file of data.train or data.stages, as it is named there");
  if (config.optimizer.gradient_dtype == DType::bf16 && train.precision == Precision::f32)
    found.must_be("optimizer.gradient_dtype", "bf16", "f32 with train.precision = f32");
  if (config.optimizer.min_lr > config.optimizer.lr)
    found.must_be("optimizer.min_lr", shortest(config.optimizer.min_lr),
                  "at most optimizer.lr (" + shortest(config.optimizer.lr) + ")");
  if (train.steps > 0) {
    try {
      LearningRate(config.optimizer, train.steps,
                   train.global_batch * std::max<std::int64_t>(config.model.context, 1));
    } catch (const InvalidArgument& error) {
      found.add(error.what());
    }
  }
  return found.take();
}

bool has_dense_layers(const ModelConfig& model) {
  for (std::int64_t layer = 0; layer < model.layers; ++layer)
    if (!model.is_moe_layer(layer)) return true;
  return false;
}

/// Makes "N gated" a number, for the activation that was chosen.
void resolve_gated_widths(Config& config) {
  const auto resolve = [&](bool& gated, std::int64_t& width) {
    if (std::exchange(gated, false))
      width = width_of_equal_parameters(width, config.model.activation.kind);
  };
  resolve(config.gated.ffn, config.model.ffn);
  resolve(config.gated.expert_ffn, config.model.moe.expert_ffn);
}

void resolve_widths(ModelConfig& model) {
  model.kv_heads = model.key_value_heads();
  if (has_dense_layers(model)) model.ffn = model.dense_width();
  if (model.moe.experts > 0) model.moe.expert_ffn = model.expert_width();
}

// A configuration whose model differs from another's in exactly the fields that matter.
Config described(Config config) {
  resolve_widths(config.model);
  MoeConfig& moe = config.model.moe;
  if (!has_dense_layers(config.model)) config.model.ffn = 0;
  if (moe.experts == 0) moe = MoeConfig();
  moe.bias_rate = moe.bias_rate > 0.0 ? 1.0 : 0.0;  // there are biases, or there are none
  return config;
}

// "--section.key=value" as an assignment; CommandLine has made sure of the form.
Assignment assignment_of(const std::string& argument) {
  const std::size_t equals = argument.find('=');
  if (!argument.starts_with("--") || equals == std::string::npos)
    throw InvalidArgument("'" + argument + "': must be --section.key=value");
  return {argument.substr(2, equals - 2), std::string(trim(argument.substr(equals + 1)))};
}

Config build(const std::vector<Assignment>& file, const std::string& origin,
             const std::vector<std::string>& overrides) {
  std::vector<Assignment> given;
  for (const std::string& argument : overrides) given.push_back(assignment_of(argument));
  Config config;
  Reader reader(config);
  reader.apply(file, origin);
  reader.apply(given, command_line);
  resolve_gated_widths(config);
  reader.add(cross_violations(config));
  refuse_violations("configuration", reader.lines());
  resolve_widths(config.model);
  return config;
}

}  // namespace

Config parse_config(const std::string& text, const std::string& origin,
                    const std::vector<std::string>& overrides) {
  return build(parse_ini(text, origin), origin, overrides);
}

Config read_config(const std::string& path, const std::vector<std::string>& overrides) {
  if (path.empty()) return build({}, path, overrides);
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  // An empty file has nothing to insert, which is no failure to read it.
  const bool is_directory = std::filesystem::is_directory(path);
  if (!file || is_directory || (file.peek() != EOF && !(text << file.rdbuf())))
    throw InputFileError(path, std::string("cannot be read as a configuration file: ") +
                                   std::strerror(is_directory ? EISDIR : errno));
  return parse_config(text.str(), path, overrides);
}

std::string to_ini(const Config& config) {
  std::string text, section;
  for (const Option& option : options()) {
    const std::size_t dot = option.key.find('.');
    if (option.key.substr(0, dot) != section) {
      if (!section.empty()) text += '\n';
      section = option.key.substr(0, dot);
      text += '[' + section + "]\n";
    }
    const std::string value = option.print(config);
    text += option.key.substr(dot + 1) + " =" + (value.empty() ? "" : " " + value) + '\n';
  }
  return text;
}

std::vector<std::string> model_violations(const ModelConfig& model) {
  Config config;
  config.model = model;
  Reader reader(config);
  for (const Option& option : options())
    if (is_of_the_model(option)) reader.reread(option);
  reader.add(model.violations());
  return reader.lines();
}

std::vector<std::string> layout_violations(const Config& config, int ranks) {
  Violations found;
  const TrainConfig& train = config.train;
  // What would do: more ranks, or a smaller group of experts.
  const int expert = config.parallel.expert;
  const int enough = round_up(ranks, expert);
  const auto counted = [](std::int64_t count) {
    return std::to_string(count) + (count == 1 ? " rank" : " ranks");
  };
  if (ranks % expert != 0)
    found.must_be(
        "parallel.expert", expert,
        fmt::format("a divisor of the number of ranks ({}): --parallel.expert={}, or {} by "
                    "launch/mpirun/train {} or mpirun -n {}",
                    ranks, std::gcd(expert, ranks), counted(enough), enough, enough));
  if (train.micro_batch > 0 && train.global_batch % (train.micro_batch * ranks) != 0)
    found.must_be("train.global_batch", train.global_batch,
                  "a multiple of train.micro_batch (" + std::to_string(train.micro_batch) +
                      ") times " + counted(ranks) + "; without train.micro_batch any number from " +
                      std::to_string(ranks) + " on will do");
  if (train.micro_batch == 0 && train.global_batch < ranks)
    found.must_be("train.global_batch", train.global_batch,
                  "at least the number of ranks (" + std::to_string(ranks) + ")");
  return found.take();
}

std::vector<std::string> training_violations(const Config& config, int ranks) {
  Violations found;
  for (const std::string& line : layout_violations(config, ranks)) found.add(line);
  if (config.train.steps < 1) found.must_be("train.steps", config.train.steps, "at least 1");
  if (config.data.train.empty())
    found.must_be("data.train", "", "PATH[:WEIGHT] ... of one token file or more");
  if (config.run.dir.empty()) found.must_be("run.dir", "", "a directory");
  if (config.eval.every > 0 && config.eval.tasks.empty())
    found.must_be("eval.every", config.eval.every, "0 without eval.tasks");
  return found.take();
}

std::vector<std::string> model_differences(const Config& here, const Config& there) {
  const Config a = described(here), b = described(there);
  // A key that changes nothing in what the parameters are, or in how they are used, may differ.
  static const std::set<std::string> free_keys = {
      "model.context",    "model.rope_theta",  "model.init_std",  "model.init_truncation",
      "moe.balance_loss", "moe.balance_scope", "moe.z_loss",      "moe.capacity_factor",
      "moe.drop",         "moe.row_budget",    "moe.report_every"};
  std::vector<std::string> lines;
  for (const Option& option : options()) {
    if (!is_of_the_model(option) || free_keys.contains(option.key)) continue;
    const std::string a_value = option.print(a), b_value = option.print(b);
    if (a_value != b_value)
      lines.push_back(option.key + ": " + a_value + " here, " + b_value + " there");
  }
  return lines;
}

}  // namespace polymoe
