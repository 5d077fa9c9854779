// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/cell_state.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>

#include "launch/config/values.h"
#include "launch/studies/study.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

fs::path checkpoint_of(const fs::path& run, std::int64_t step) {
  return run / "checkpoints" / fmt::format("step-{:08}", step);
}

bool committed(const fs::path& checkpoint) { return fs::exists(checkpoint / "manifest.json"); }

std::int64_t newest_step(const fs::path& run) {
  std::int64_t newest = 0;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", none)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step-") || !committed(entry.path())) continue;
    std::string digits = name.substr(5);
    digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size()));
    newest = std::max(newest, parse_count(digits).value_or(0));
  }
  return newest;
}

}  // namespace

const char* name_of(CellState::Kind kind) {
  switch (kind) {
    case CellState::Kind::absent:
      return "absent";
    case CellState::Kind::unfinished:
      return "unfinished";
    case CellState::Kind::finished:
      return "finished";
    case CellState::Kind::failed:
      break;
  }
  return "failed";
}

CellState state_of(const Cell& cell) {
  constexpr std::int64_t most_bytes = 1 << 20;
  const fs::path run = cell.config.run.dir;
  CellState state;
  if (!fs::exists(run)) return state;
  state.steps = newest_step(run);
  const bool started = fs::exists(run / "config.ini") || fs::exists(run / "study.json");
  state.kind = started ? CellState::Kind::unfinished : CellState::Kind::absent;
  if (fs::exists(run / "study.json")) {
    try {
      const Json json =
          parse_json(read_file(run / "study.json", most_bytes), (run / "study.json").string());
      const auto code = static_cast<int>(json.at("exit_code").as_integer());
      const bool all_steps = json.at("steps").as_integer() == cell.config.train.steps;
      if (code == 0 && all_steps) state.kind = CellState::Kind::finished;
      if (code != 0) {
        state.kind = CellState::Kind::failed;
        state.exit_code = code;
        state.last_line = json.at("last_line").as_string();
      }
    } catch (const InvalidArgument& error) {
      throw InputFileError((run / "study.json").string(), error.what());
    }
  }
  if (committed(checkpoint_of(run, cell.config.train.steps)))
    state.kind = CellState::Kind::finished;
  return state;
}

bool may_start(const Study& study, const Cell& cell) {
  return cell.kind != CellKind::branch || state_of(cell).steps > 0 ||
         committed(checkpoint_of(study.cells[cell.trunk].config.run.dir, cell.fork));
}

void record_end(const Cell& cell, int exit_code, const std::string& last_line) {
  Json json = Json::object();
  json.set("steps", cell.config.train.steps)
      .set("exit_code", exit_code)
      .set("last_line", last_line);
  replace_file(fs::path(cell.config.run.dir) / "study.json", json.dump() + "\n");
}

}  // namespace polymoe
