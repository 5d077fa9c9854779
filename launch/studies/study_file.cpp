// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/study_file.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/ini.h"
#include "launch/config/option.h"
#include "launch/config/option_table.h"
#include "launch/config/schedule.h"
#include "launch/config/values.h"
#include "launch/studies/study.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.emplace_back(trim(std::string_view(text).substr(begin, end - begin)));
    begin = end + 1;
  }
  return parts;
}

/// A positive number with an optional factor: "1.5e18", "8G", "20M".
std::optional<double> parse_amount(std::string_view text) {
  if (const auto value = parse_real(text); value && *value > 0.0) return value;
  if (const auto count = parse_count(text); count && *count > 0) return static_cast<double>(*count);
  if (!text.empty() && text.back() == 'G')
    if (const auto value = parse_real(trim(text.substr(0, text.size() - 1))); value && *value > 0.0)
      return *value * 1024.0 * 1024.0 * 1024.0;
  return std::nullopt;
}

/// Whether a key of the configuration takes the value.
std::optional<std::string> refusal(const std::string& key, const std::string& value) {
  if (key == ranks_key) {
    const auto ranks = parse_count(value);
    if (ranks && *ranks >= 1 && *ranks <= 65536) return std::nullopt;
    return "a whole number in [1, 65536]";
  }
  Config scratch;
  const Option* option = find_option(key);
  if (option == nullptr || option->read(value, scratch)) return std::nullopt;
  return option->allowed;
}

/// The least number of words that tell all values apart makes their labels.
std::vector<std::string> labels_of(const std::vector<std::vector<std::string>>& values) {
  std::size_t most = 0;
  for (const auto& words : values) most = std::max(most, words.size());
  std::vector<std::string> labels;
  for (std::size_t count = 1; count <= most; ++count) {
    labels.clear();
    for (const auto& words : values) {
      std::string label;
      for (std::size_t i = 0; i < std::min(count, words.size()); ++i)
        label.append(i == 0 ? "" : "-").append(words[i]);
      labels.push_back(label);
    }
    if (std::set<std::string>(labels.begin(), labels.end()).size() == labels.size()) break;
  }
  return labels;
}

class Parser {
 public:
  Parser(const fs::path& file, std::vector<std::string>& violations)
      : file_(file), violations_(violations) {}

  StudyFile parse(const std::string& text) {
    std::set<std::string> seen;
    for (const Assignment& given : parse_ini(text, file_.string())) {
      if (!seen.insert(given.key).second) {
        violations_.push_back(given.key + ": given more than once");
        continue;
      }
      const std::size_t dot = std::min(given.key.find('.'), given.key.size());
      const std::string section = given.key.substr(0, dot);
      const std::string key = dot < given.key.size() ? given.key.substr(dot + 1) : "";
      if (section == "set")
        add_set(key, given.value);
      else if (section == "axes")
        add_axis(key, given.value);
      else
        read(given);
    }
    if (result_.directory.empty())
      violations_.push_back("study.dir = : must be a directory, of which each cell gets one");
    const std::set<std::uint64_t> seeds(result_.seeds.begin(), result_.seeds.end());
    if (seeds.size() < result_.seeds.size())
      violations_.push_back("study.seeds: each seed must be given once");
    check_keys_once();
    return std::move(result_);
  }

 private:
  void refuse(const Assignment& given, const std::string& allowed) {
    violations_.push_back(given.key + " = " + given.value + ": must be " + allowed);
  }

  void amount(const Assignment& given, std::optional<double>& target) {
    target = parse_amount(given.value);
    if (!target) refuse(given, "a number > 0, as 1e18, 20M, or 8G (2^30 each)");
  }

  void counts(const Assignment& given, std::int64_t least, std::vector<std::int64_t>& target) {
    for (const std::string& word : split_words(given.value)) {
      const auto count = parse_count(word);
      if (!count || *count < least) {
        refuse(given, "whole numbers from " + std::to_string(least) + " on, blanks between them");
        return;
      }
      target.push_back(*count);
    }
    if (target.empty()) refuse(given, "at least one whole number");
  }

  void read(const Assignment& given) {
    const std::string& key = given.key;
    if (key == "study.base") {
      result_.base = file_.parent_path() / given.value;
    } else if (key == "study.dir") {
      result_.directory = given.value;
    } else if (key == "study.seeds") {
      std::vector<std::int64_t> seeds;
      counts(given, 0, seeds);
      if (!seeds.empty()) result_.seeds.assign(seeds.begin(), seeds.end());
    } else if (key == "study.ranks") {
      if (const auto allowed = refusal(ranks_key, given.value))
        refuse(given, *allowed);
      else
        result_.ranks = static_cast<int>(*parse_count(given.value));
    } else if (key == "study.baseline") {
      result_.baseline = given.value;
    } else if (key == "study.flops_per_second") {
      std::optional<double> rate;
      amount(given, rate);
      result_.flops_per_second = rate.value_or(0.0);
    } else if (key == "study.keep_checkpoints") {
      if (given.value != "true" && given.value != "false") refuse(given, "true or false");
      result_.keep_checkpoints = given.value != "false";
    } else if (key == "budget.flops") {
      amount(given, result_.budget.flops);
    } else if (key == "budget.tokens") {
      amount(given, result_.budget.tokens);
    } else if (key == "budget.memory") {
      amount(given, result_.budget.memory);
    } else if (key == "budget.hours") {
      amount(given, result_.budget.hours);
    } else if (key == "branches.tokens") {
      counts(given, 1, result_.branch_tokens);
    } else if (key == "branches.decay") {
      if (!Duration::parse(given.value)) refuse(given, Duration::allowed);
      result_.branch_decay = given.value;
    } else {
      unknown(key,
              {"study.base", "study.dir", "study.seeds", "study.ranks", "study.baseline",
               "study.flops_per_second", "study.keep_checkpoints", "budget.flops", "budget.tokens",
               "budget.memory", "budget.hours", "branches.tokens", "branches.decay"});
    }
  }

  void unknown(const std::string& key, const std::vector<std::string>& known) {
    violations_.push_back(key + ": unknown key; did you mean " + nearest(key, known) +
                          "? (keys of the configuration belong into [set] or [axes])");
  }

  /// Whether a study may set that key of the configuration.
  bool may_set(const std::string& section, const std::string& key) {
    static const std::set<std::string> ours = {"run.dir", "train.seed", "checkpoint.resume",
                                               "train.stop_after"};
    if (ours.contains(key)) {
      violations_.push_back(section + ": " + key + ": is set by the study itself" +
                            (key == "train.seed" ? " (study.seeds)" : ""));
      return false;
    }
    if (find_option(key) != nullptr || (key == ranks_key && section == "axes")) return true;
    std::vector<std::string> keys;
    for (const Option& option : options()) keys.push_back(option.key);
    violations_.push_back(section + ": " + key + ": unknown key; did you mean " +
                          nearest(key, keys) + "?");
    return false;
  }

  bool may_be(const std::string& section, const std::string& key, const std::string& value) {
    const auto allowed = refusal(key, value);
    if (allowed)
      violations_.push_back(section + ": " + key + " = " + value + ": must be " + *allowed);
    return !allowed;
  }

  void add_set(const std::string& key, const std::string& value) {
    if (may_set("set", key) && may_be("set", key, value)) result_.set.push_back({key, value});
  }

  void add_axis(const std::string& name, const std::string& text) {
    const std::vector<std::string> keys = split_words(name);
    bool good = !keys.empty();
    for (const std::string& key : keys) good = may_set("axes", key) && good;
    std::vector<std::vector<std::string>> values;
    for (const std::string& value : split(text, ',')) {
      values.push_back(keys.size() == 1 ? std::vector<std::string>{value} : split_words(value));
      if (values.back().size() == keys.size() && !value.empty()) continue;
      violations_.push_back("axes: " + name + ": '" + value + "' must be " +
                            std::to_string(keys.size()) + " word" + (keys.size() == 1 ? "" : "s") +
                            ", one for each key (commas separate values)");
      good = false;
    }
    if (!good) return;
    for (const auto& words : values)
      for (std::size_t i = 0; i < keys.size(); ++i)
        good = may_be("axes", keys[i], words[i]) && good;
    const std::vector<std::string> labels = labels_of(values);
    const std::set<std::string> distinct(labels.begin(), labels.end());
    if (distinct.size() < labels.size()) {
      violations_.push_back("axes: " + name + ": a value is given more than once");
      good = false;
    }
    if (!good) return;
    StudyAxis axis{.name = name, .values = {}};
    for (std::size_t v = 0; v < values.size(); ++v) {
      StudyAxis::Value value{.label = labels[v], .assignments = {}};
      for (std::size_t i = 0; i < keys.size(); ++i)
        value.assignments.push_back({keys[i], values[v][i]});
      axis.values.push_back(std::move(value));
    }
    result_.axes.push_back(std::move(axis));
  }

  void check_keys_once() {
    std::set<std::string> keys;
    for (const StudyAxis& axis : result_.axes)
      for (const Assignment& assignment : axis.values.front().assignments)
        if (!keys.insert(assignment.key).second)
          violations_.push_back("axes: " + assignment.key + ": belongs to more than one axis");
    for (const Assignment& assignment : result_.set)
      if (keys.contains(assignment.key))
        violations_.push_back("set: " + assignment.key + ": is an axis as well");
  }

  const fs::path file_;
  std::vector<std::string>& violations_;
  StudyFile result_;
};

}  // namespace

StudyFile parse_study_file(const std::string& text, const fs::path& file,
                           std::vector<std::string>& violations) {
  return Parser(file, violations).parse(text);
}

}  // namespace polymoe
