// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/study.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/ini.h"
#include "launch/config/option.h"
#include "launch/config/option_table.h"
#include "launch/config/schedule.h"
#include "launch/config/values.h"
#include "launch/studies/study_file.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/random.h"
#include "runtime/rounding.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

/// Every line that an error lists: itself, or what follows on its head.
std::vector<std::string> lines_of(const std::string& message) {
  std::vector<std::string> lines;
  std::size_t begin = message.find('\n');
  if (begin == std::string::npos) {
    const std::string head = "configuration: ";
    return {message.starts_with(head) ? message.substr(head.size()) : message};
  }
  while (begin != std::string::npos) {
    const std::size_t end = message.find('\n', begin + 1);
    lines.emplace_back(trim(message.substr(begin + 1, end - begin - 1)));
    begin = end;
  }
  return lines;
}

/// As part of a file's name.
std::string as_name(const std::string& label) {
  std::string name;
  for (const char c : label) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-';
    name += plain ? c : '-';
  }
  return name.substr(0, 40);
}

std::string short_count(std::int64_t count) {
  for (const auto& [factor, suffix] : {std::pair{std::int64_t{1000000000}, "B"},
                                       {std::int64_t{1000000}, "M"},
                                       {std::int64_t{1000}, "k"}})
    if (count >= factor && count % (factor / 10) == 0)
      return fmt::format("{:g}{}", static_cast<double>(count) / static_cast<double>(factor),
                         suffix);
  return std::to_string(count);
}

/// What makes a run what it is: every key that is not at its default, but for those that say where
/// and how it runs. A key that a later version adds leaves the identity of older cells alone.
std::string identity_of(const Config& config, int ranks, std::int64_t fork) {
  static const Config defaults;
  std::string text = fmt::format("ranks={}\nfork={}\n", ranks, fork);
  for (const Option& option : options()) {
    if (option.key.starts_with("run.") || option.key.starts_with("checkpoint.")) continue;
    const std::string value = option.print(config);
    if (value != option.print(defaults)) text += option.key + "=" + value + "\n";
  }
  return fmt::format("{:016x}", hash_of(text)).substr(0, 8);
}

/// A line that many cells give is told once.
class CellViolations {
 public:
  void add(const std::string& cell, const std::string& line) {
    if (!cells_.contains(line)) order_.push_back(line);
    cells_[line].push_back(cell);
  }
  void move_to(std::vector<std::string>& lines) const {
    for (const std::string& line : order_) {
      const std::vector<std::string>& cells = cells_.at(line);
      std::string where = cells.front();
      if (cells.size() > 1) where += fmt::format(" and {} more", cells.size() - 1);
      lines.push_back(fmt::format("{} (cell {})", line, where));
    }
  }

 private:
  std::map<std::string, std::vector<std::string>> cells_;
  std::vector<std::string> order_;
};

/// Makes the cells of a study, all combinations of values and seeds.
class CellMaker {
 public:
  CellMaker(const StudyFile& file, const std::vector<std::string>& overrides, Study& study)
      : file_(file), overrides_(overrides), study_(study) {}

  void make(std::vector<std::string>& violations) {
    for (const std::uint64_t seed : file_.seeds) {
      std::vector<std::size_t> values(study_.axes.size(), 0);
      do add_cells(seed, values);
      while (next(values));
    }
    violations_.move_to(violations);
    std::map<std::string, std::string> seen;  // identity, cell
    for (const Cell& cell : study_.cells) {
      const std::string identity = cell.name.substr(cell.name.rfind('-') + 1);
      const auto [other, is_new] = seen.emplace(identity, cell.name);
      if (!is_new)
        violations.push_back(
            fmt::format("cells {} and {} would be the same run", other->second, cell.name));
    }
  }

 private:
  bool next(std::vector<std::size_t>& values) const {
    for (std::size_t a = values.size(); a-- > 0;) {
      if (++values[a] < study_.axes[a].values.size()) return true;
      values[a] = 0;
    }
    return false;
  }

  void add_cells(std::uint64_t seed, const std::vector<std::size_t>& values) {
    Cell cell;
    cell.values = values;
    cell.seed = seed;
    cell.ranks = file_.ranks;
    std::vector<std::string> given = {fmt::format("--train.seed={}", seed)};
    const auto set = [&](const Assignment& assignment) {
      if (assignment.key == ranks_key)
        cell.ranks = static_cast<int>(*parse_count(assignment.value));
      else
        given.push_back("--" + assignment.key + "=" + assignment.value);
    };
    for (const Assignment& assignment : file_.set)
      if (!overridden(assignment.key)) set(assignment);
    for (std::size_t a = 0; a < values.size(); ++a)
      for (const Assignment& assignment : study_.axes[a].values[values[a]].assignments)
        set(assignment);
    given.insert(given.end(), overrides_.begin(), overrides_.end());
    name_ = study_.axes.empty() ? "cell" : "";
    for (std::size_t a = 0; a < values.size(); ++a)
      name_ += (a == 0 ? "" : "_") + as_name(study_.axes[a].values[values[a]].label);
    name_ += fmt::format("_seed{}", seed);
    if (file_.branch_tokens.empty())
      add_run(cell, given);
    else
      add_trunk(cell, given);
  }

  bool overridden(const std::string& key) const {
    return std::any_of(overrides_.begin(), overrides_.end(), [&](const std::string& argument) {
      return argument.starts_with("--" + key + "=");
    });
  }

  /// Nothing where the configuration is refused; then the violations say why.
  std::optional<Config> configured(std::vector<std::string> given, int ranks) {
    given.push_back("--run.dir=" + (study_.directory / "cell").string());
    try {
      Config config = read_config(file_.base.string(), given);
      const std::vector<std::string> lines = training_violations(config, ranks);
      for (const std::string& line : lines) violations_.add(name_, line);
      if (lines.empty()) return config;
    } catch (const InvalidArgument& error) {
      for (const std::string& line : lines_of(error.what())) violations_.add(name_, line);
    }
    return std::nullopt;
  }

  /// Returns its index.
  std::size_t add(Cell cell, const std::string& suffix) {
    cell.name =
        fmt::format("{}{}-{}", name_, suffix, identity_of(cell.config, cell.ranks, cell.fork));
    cell.config.run.dir = (study_.directory / cell.name).string();
    if (cell.kind == CellKind::branch) {
      const fs::path trunk = study_.cells[cell.trunk].config.run.dir;
      cell.config.checkpoint.resume =
          (trunk / "checkpoints" / fmt::format("step-{:08}", cell.fork)).string();
    }
    study_.cells.push_back(std::move(cell));
    return study_.cells.size() - 1;
  }

  void add_run(Cell cell, const std::vector<std::string>& given) {
    if (const auto config = configured(given, cell.ranks)) {
      cell.config = *config;
      add(std::move(cell), "");
    }
  }

  /// A branch of T tokens ends with its decay at step T / (tokens of a step); it starts where that
  /// decay starts, so trunk and branch together are one run of T tokens with schedule wsd.
  void add_trunk(Cell cell, const std::vector<std::string>& given) {
    std::vector<Cell> branches;
    for (const std::int64_t tokens : file_.branch_tokens) {
      const auto shape =
          configured(with(given, {"--train.steps=1", "--optimizer.schedule=constant"}), cell.ranks);
      if (!shape) return;
      const std::int64_t per_step = shape->train.global_batch * shape->model.context;
      const std::int64_t steps = divide_up(tokens, per_step);
      Cell branch = cell;
      branch.kind = CellKind::branch;
      const auto config = configured(
          with(given, {fmt::format("--train.steps={}", steps), "--optimizer.schedule=wsd",
                       "--optimizer.decay=" + file_.branch_decay}),
          cell.ranks);
      if (!config) return;
      const auto decay = Duration::parse(config->optimizer.decay);
      branch.fork = steps - decay->steps(steps, per_step);
      branch.config = *config;
      if (config->optimizer.warmup.find('%') != std::string::npos) {
        violations_.add(name_, "optimizer.warmup = " + config->optimizer.warmup +
                                   ": must be steps or tokens where there are [branches], which "
                                   "differ in train.steps");
        return;
      }
      if (branch.fork < 1) {
        violations_.add(name_, fmt::format("branches.tokens = {}: its {} steps must be more than "
                                           "its decay of {}",
                                           tokens, steps, config->optimizer.decay));
        return;
      }
      branches.push_back(std::move(branch));
    }
    std::set<std::int64_t> forks;
    for (const Cell& branch : branches) forks.insert(branch.fork);
    cell.kind = CellKind::trunk;
    cell.forks.assign(forks.begin(), forks.end());
    const auto config =
        configured(with(given, {fmt::format("--train.steps={}", cell.forks.back()),
                                "--optimizer.schedule=constant", "--checkpoint.keep=0"}),
                   cell.ranks);
    if (!config) return;
    cell.config = *config;
    const std::size_t trunk = add(cell, "_trunk");
    for (std::size_t i = 0; i < branches.size(); ++i) {
      branches[i].trunk = trunk;
      add(std::move(branches[i]), "_" + short_count(file_.branch_tokens[i]));
    }
  }

  static std::vector<std::string> with(std::vector<std::string> given,
                                       const std::vector<std::string>& more) {
    for (const std::string& argument : more) {
      const std::string key = argument.substr(0, argument.find('=') + 1);
      std::erase_if(given, [&](const std::string& other) { return other.starts_with(key); });
      given.push_back(argument);
    }
    return given;
  }

  const StudyFile& file_;
  const std::vector<std::string>& overrides_;
  Study& study_;
  CellViolations violations_;
  std::string name_;
};

void find_baseline(Study& study, std::vector<std::string>& violations) {
  if (!study.baseline) return;
  std::size_t found = 0;
  std::string labels;
  for (std::size_t a = 0; a < study.axes.size(); ++a) {
    for (const StudyAxis::Value& value : study.axes[a].values) {
      labels += (labels.empty() ? "" : ", ") + value.label;
      if (value.label != *study.baseline) continue;
      study.compared_axis = a;
      ++found;
    }
  }
  if (found != 1)
    violations.push_back(
        fmt::format("study.baseline = {}: must be the label of one value of one "
                    "axis: {}",
                    *study.baseline, labels.empty() ? "there is none" : labels));
}

void check_base(const fs::path& base, std::vector<std::string>& violations) {
  if (base.empty()) return;
  try {
    read_config(base.string(), {});
  } catch (const InputFileError& error) {
    violations.push_back(fmt::format("study.base = {}", error.what()));
  } catch (const InvalidArgument& error) {
    for (const std::string& line : lines_of(error.what()))
      violations.push_back(fmt::format("study.base = {}: {}", base.string(), line));
  }
}

void check_overrides(const StudyFile& file, const std::vector<std::string>& overrides,
                     std::vector<std::string>& violations) {
  for (const std::string& argument : overrides) {
    const std::string key = argument.substr(2, argument.find('=') - 2);
    for (const StudyAxis& axis : file.axes)
      for (const Assignment& assignment : axis.values.front().assignments)
        if (assignment.key == key) violations.push_back(argument + ": is an axis of the study");
    if (key == "run.dir" || key == "train.seed" || key == "checkpoint.resume")
      violations.push_back(argument + ": is set by the study itself");
  }
}

}  // namespace

std::int64_t Cell::tokens() const {
  return config.train.steps * config.train.global_batch * config.model.context;
}

std::vector<std::string> Study::labels(const Cell& cell) const {
  std::vector<std::string> labels;
  for (std::size_t a = 0; a < axes.size(); ++a)
    labels.push_back(axes[a].values[cell.values[a]].label);
  return labels;
}

Study read_study(const fs::path& file, const std::vector<std::string>& overrides) {
  constexpr std::int64_t most_bytes = 1 << 20;
  std::vector<std::string> violations;
  const StudyFile parsed = parse_study_file(read_file(file, most_bytes), file, violations);
  Study study{.file = file,
              .directory = parsed.directory,
              .axes = parsed.axes,
              .seeds = parsed.seeds,
              .baseline = parsed.baseline,
              .budget = parsed.budget,
              .flops_per_second = parsed.flops_per_second,
              .keep_checkpoints = parsed.keep_checkpoints,
              .cells = {}};
  if (violations.empty()) find_baseline(study, violations);  // an axis may have been left out
  const std::size_t before = violations.size();
  check_base(parsed.base, violations);
  check_overrides(parsed, overrides, violations);
  // Without a base every cell would only repeat what is wrong with it.
  if (violations.size() == before) CellMaker(parsed, overrides, study).make(violations);
  refuse_violations(file.string(), violations);
  return study;
}

std::vector<std::string> foreign_cells(const Study& study) {
  std::set<std::string> known;
  for (const Cell& cell : study.cells) known.insert(cell.name);
  std::vector<std::string> foreign;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(study.directory, none)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && fs::exists(entry.path() / "config.ini") && !known.contains(name))
      foreign.push_back(name);
  }
  std::sort(foreign.begin(), foreign.end());
  return foreign;
}

}  // namespace polymoe
