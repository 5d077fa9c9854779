// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "launch/checkpoints/resume.h"
#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/ini.h"
#include "launch/config/values.h"
#include "launch/machine/exit_code.h"
#include "parallel/checkpoint/difference.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/reader.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/log.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

std::filesystem::path chosen(const std::string& path) {
  std::vector<std::string> notes;
  const std::filesystem::path checkpoint = resolve_checkpoint(path, notes);
  Log log(Log::alone);
  for (const std::string& note : notes) log.warning(note);
  return checkpoint;
}

/// Prints what is different, and remembers whether any of it is content.
class Report {
 public:
  void add(const std::string& what, const std::string& a, const std::string& b, bool content) {
    if (a == b) return;
    std::cout << fmt::format("{}: {} | {}{}\n", what, a, b, content ? "" : "  (not content)");
    differs_ |= content;
  }
  void add(const std::string& line) {
    std::cout << line << '\n';
    differs_ = true;
  }
  bool differs() const { return differs_; }

 private:
  bool differs_ = false;
};

/// Where and how a run went on says nothing of what it computed.
bool is_content(const std::string& key) {
  return !key.starts_with("parallel.") && !key.starts_with("checkpoint.") &&
         !key.starts_with("run.") && key != "train.stop_after";
}

void compare_info(const CheckpointInfo& a, const CheckpointInfo& b, Report& report) {
  report.add("step", with_separators(a.step), with_separators(b.step), true);
  report.add("tokens", with_separators(a.tokens), with_separators(b.tokens), true);
  report.add("state", a.state, b.state, true);
  report.add("ranks", std::to_string(a.ranks), std::to_string(b.ranks), false);
  report.add("expert parallelism", std::to_string(a.expert_parallel),
             std::to_string(b.expert_parallel), false);
  std::vector<std::string> keys;  // in the order of the files
  std::map<std::string, std::string> values[2];
  const CheckpointInfo* infos[] = {&a, &b};
  for (std::size_t side = 0; side < 2; ++side)
    for (const auto& [key, value] : parse_ini(infos[side]->config, "configuration"))
      if (values[side].emplace(key, value).second && (side == 0 || !values[0].contains(key)))
        keys.push_back(key);
  const auto text = [](const std::map<std::string, std::string>& of, const std::string& key) {
    const auto found = of.find(key);
    return found == of.end() ? std::string("(none)") : found->second;
  };
  for (const std::string& key : keys)
    report.add(key, text(values[0], key), text(values[1], key), is_content(key));
}

void compare_tensors(const CheckpointReader& a, const CheckpointReader& b, double tolerance,
                     Report& report) {
  std::set<std::string> names;
  for (const auto& tensor : a.manifest().tensors) names.insert(tensor.name);
  for (const auto& tensor : b.manifest().tensors) names.insert(tensor.name);
  std::int64_t equal = 0;
  double largest = 0.0;
  for (const std::string& name : names) {
    const auto* of_a = a.manifest().find(name);
    const auto* of_b = b.manifest().find(name);
    if (of_a == nullptr || of_b == nullptr) {
      report.add(name + (of_a == nullptr ? ": only in the second" : ": only in the first"));
      continue;
    }
    if (of_a->shape != of_b->shape || of_a->dtype != of_b->dtype) {
      report.add(name, name_of(of_a->dtype) + to_string(of_a->shape),
                 name_of(of_b->dtype) + to_string(of_b->shape), true);
      continue;
    }
    const TensorDifference difference = difference_of(a, b, name);
    if (difference.same_bits) {
      ++equal;
      continue;
    }
    const std::string line =
        fmt::format("{}: relative difference {:.3e}, largest {:.3e}, {} of {} elements", name,
                    difference.relative, difference.largest, with_separators(difference.differing),
                    with_separators(of_a->shape.elements()));
    // Not a number is no difference within any tolerance.
    if (difference.relative <= tolerance && tolerance > 0.0) {
      std::cout << line << "  (tolerated)\n";
    } else {
      report.add(line);
    }
    if (!(difference.relative <= largest)) largest = difference.relative;
  }
  std::cout << fmt::format("{} of {} tensors are equal bit for bit", equal, names.size());
  if (largest != 0.0) std::cout << fmt::format("; largest relative difference {:.3e}", largest);
  std::cout << '\n';
}

int run(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = checkpoint_diff_command().parse(args);
  double tolerance = 0.0;
  if (line.has("tolerance")) {
    const auto given = parse_real(line.value("tolerance"));
    if (!given || *given < 0.0)
      throw InvalidArgument("--tolerance " + line.value("tolerance") +
                            ": must be a number in [0, inf)");
    tolerance = *given;
  }
  const CheckpointReader a(chosen(line.positional()[0]));
  const CheckpointReader b(chosen(line.positional()[1]));
  Report report;
  compare_info(a.info(), b.info(), report);
  compare_tensors(a, b, tolerance, report);
  return report.differs() ? exit_different : exit_done;
}

}  // namespace

const Command& checkpoint_diff_command() {
  static const Command command = {
      .name = "checkpoint diff",
      .summary =
          "Compares two checkpoints: exit code 0 where their content is the same, 1 where it "
          "differs. Layout and the sections parallel, checkpoint and run are no content",
      .arguments = "A B",
      .positional = 2,
      .options = {{"tolerance", "X",
                   "relative difference of a tensor, ||a - b|| / max(||a||, ||b||), up to which it "
                   "counts as the same; default 0, bit for bit"}},
      .run = run};
  return command;
}

}  // namespace polymoe
