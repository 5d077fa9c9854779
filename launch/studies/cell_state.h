// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "launch/studies/study.h"

namespace polymoe {

/// How far a cell is, as its directory tells.
struct CellState {
  enum class Kind : std::uint8_t { absent, unfinished, finished, failed };
  Kind kind = Kind::absent;
  std::int64_t steps = 0;        // of its newest checkpoint
  std::optional<int> exit_code;  // of its last process that failed
  std::string last_line;         // of that process's output
};

/// "absent", "unfinished", "finished", "failed".
const char* name_of(CellState::Kind kind);

/// Reads CELL/checkpoints and CELL/study.json.
CellState state_of(const Cell& cell);

/// Whether the trunk's checkpoint that this branch starts from is there; true of other cells.
bool may_start(const Study& study, const Cell& cell);

/// What study.json keeps of a process that ended: the number of steps that it had to do, its exit
/// code, its last line.
void record_end(const Cell& cell, int exit_code, const std::string& last_line);

}  // namespace polymoe
