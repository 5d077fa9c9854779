// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoints/resume.h"

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/option.h"
#include "launch/config/option_table.h"
#include "parallel/checkpoint/directory.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/error.h"
#include "runtime/files/json.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

std::vector<std::int64_t> committed(const fs::path& run) {
  return committed_steps(run / checkpoints_folder);
}

/// Throws InputFileError when none was found although the run has some.
void check_found(const fs::path& run, bool found, const std::vector<std::string>& passed_over) {
  // A run that was killed while it saved for the first time has lost nothing by starting anew.
  if (!found && !committed(run).empty())
    throw InputFileError((run / checkpoints_folder).string(),
                         fmt::format("no checkpoint is valid ({}); name another one by "
                                     "checkpoint.resume = PATH, or start in a new run.dir",
                                     fmt::join(passed_over, "; ")));
}

void add_notes(const std::vector<std::string>& passed_over, std::vector<std::string>& notes) {
  for (const std::string& line : passed_over) notes.push_back("passed over " + line);
}

std::optional<CheckpointReader> open_newest(const fs::path& run, std::vector<std::string>& notes,
                                            Communicator& ranks) {
  std::vector<std::string> passed_over;
  auto newest = open_newest_checkpoint(run / checkpoints_folder, passed_over, ranks);
  on_first_rank(ranks, [&] { check_found(run, newest.has_value(), passed_over); });
  add_notes(passed_over, notes);
  return newest;
}

/// Whether it is one itself. Throws InputFileError when there is nothing.
bool names_checkpoint(const fs::path& path) {
  if (!fs::exists(path)) throw InputFileError(path.string(), "no such checkpoint");
  return is_checkpoint(path);
}

[[noreturn]] void refuse(const fs::path& path) {
  throw InputFileError(path.string(),
                       "neither a checkpoint (no manifest.json) nor a run directory with one");
}

/// A run must not start behind checkpoints that it has. `step` is where it would.
void check_nothing_newer(const CheckpointConfig& config, const fs::path& run, std::int64_t step) {
  const std::vector<std::int64_t> present = committed(run);
  if (!present.empty() && present.back() > step)
    throw InvalidArgument(fmt::format(
        "checkpoint.resume = {}: {} holds the newer {}; remove what is newer, or set "
        "run.dir to a new directory",
        config.resume, (run / checkpoints_folder).string(), checkpoint_name(present.back())));
}

void check_nothing_there(const fs::path& run) {
  const std::vector<std::int64_t> present = committed(run);
  if (!present.empty())
    throw InvalidArgument(
        fmt::format("checkpoint.resume = none: {} holds {}; set checkpoint.resume = auto to go "
                    "on from it, or run.dir to a new directory to start anew",
                    (run / checkpoints_folder).string(), checkpoint_name(present.back())));
}

}  // namespace

fs::path resolve_checkpoint(const fs::path& path, std::vector<std::string>& notes) {
  if (names_checkpoint(path)) return path;
  std::vector<std::string> passed_over;
  const auto newest = newest_checkpoint(path / checkpoints_folder, passed_over);
  check_found(path, newest.has_value(), passed_over);
  add_notes(passed_over, notes);
  if (!newest) refuse(path);
  return *newest;
}

CheckpointReader open_checkpoint(const fs::path& path, std::vector<std::string>& notes,
                                 Communicator& ranks) {
  const std::string named =
      on_first_rank(ranks, [&] { return std::string(names_checkpoint(path) ? "checkpoint" : ""); });
  if (!named.empty()) return CheckpointReader(path, ranks);
  auto newest = open_newest(path, notes, ranks);
  if (!newest) refuse(path);
  return *std::move(newest);
}

StartPoint choose_start(const CheckpointConfig& config, const fs::path& run, Communicator& ranks) {
  StartPoint start;
  if (config.resume == "none") {
    on_first_rank(ranks, [&] { check_nothing_there(run); });
  } else if (config.resume == "auto") {
    start.checkpoint = open_newest(run, start.notes, ranks);
  } else {
    start.checkpoint = open_checkpoint(config.resume, start.notes, ranks);
    const std::int64_t step = start.checkpoint->info().step;
    on_first_rank(ranks, [&] { check_nothing_newer(config, run, step); });
  }
  return start;
}

void check_same_model(const Config& config, const CheckpointInfo& info,
                      const fs::path& checkpoint) {
  const Config there = parse_config(info.config, checkpoint.string(), {});
  refuse_violations(checkpoint.string() + " is a checkpoint of another model",
                    model_differences(config, there));
}

std::vector<std::string> changed_settings(const Config& config, const CheckpointInfo& info,
                                          const fs::path& checkpoint) {
  const Config there = parse_config(info.config, checkpoint.string(), {});
  std::vector<std::string> lines;
  for (const Option& option : options()) {
    const std::string section = option.key.substr(0, option.key.find('.'));
    // What differs of the model is free to differ: check_same_model() sees to the rest.
    if (section == "run" || section == "checkpoint" || section == "parallel") continue;
    if (option.key == "train.stop_after") continue;  // says nothing of the course
    const std::string here = option.print(config);
    const std::string before = option.print(there);
    if (here != before)
      lines.push_back(fmt::format("{} = {} (checkpoint: {})", option.key, here, before));
  }
  return lines;
}

std::string TrainingState::to_text() const {
  Json state = Json::object();
  state.set("next_sample", next_sample);
  if (!moments) state.set("moments", false);
  if (!data.is_null()) state.set("data", data);
  if (!guard.is_null()) state.set("guard", guard);
  if (sound >= 0) state.set("sound", sound);
  return state.dump();
}

TrainingState TrainingState::from_text(const std::string& text, const std::string& origin) {
  try {
    const Json state = parse_json(text, origin);
    const Json* moments = state.find("moments");
    const Json* data = state.find("data");
    const Json* guard = state.find("guard");
    const Json* sound = state.find("sound");
    return {.next_sample = state.at("next_sample").as_integer(0),
            .moments = moments == nullptr || moments->as_bool(),
            .data = data == nullptr ? Json() : *data,
            .guard = guard == nullptr ? Json() : *guard,
            .sound = sound == nullptr ? -1 : sound->as_integer(0)};
  } catch (const InvalidArgument& error) {
    throw InputFileError(origin, fmt::format("its trainer state: {}", error.what()));
  }
}

}  // namespace polymoe
