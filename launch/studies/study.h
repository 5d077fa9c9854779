// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/ini.h"

namespace polymoe {

/// A direction in which the cells of a study differ: keys that take several values together.
struct StudyAxis {
  struct Value {
    std::string label;                    // how names, reports and a baseline call it
    std::vector<Assignment> assignments;  // one per key
  };
  std::string name;  // its keys, blanks between them
  std::vector<Value> values;
};

/// What a cell is beside an ordinary run.
enum class CellKind : std::uint8_t {
  run,     // from the first step to the last
  trunk,   // at a constant rate; only for branches to start from
  branch,  // from a trunk's checkpoint, decaying to its end
};

/// One training run of a study.
struct Cell {
  std::string name;  // of its directory: labels, seed, tokens of a branch, identity
  CellKind kind = CellKind::run;
  std::vector<std::size_t> values;  // per axis, which
  std::uint64_t seed = 0;
  int ranks = 1;
  std::size_t trunk = 0;              // branch: index of its trunk among the cells
  std::int64_t fork = 0;              // branch: step of the trunk that it starts from
  std::vector<std::int64_t> forks{};  // trunk: the steps that branches start from, ascending
  Config config;                      // run.dir is the cell's directory

  std::int64_t tokens() const;  // predicted from the first step to the last
};

/// What a study may take, over all its cells; nothing where there is no bound.
struct StudyBudget {
  std::optional<double> flops;
  std::optional<double> tokens;
  std::optional<double> memory;  // bytes of a rank
  std::optional<double> hours;   // of the machine, one cell after the other
};

/// A study: a base configuration, axes, seeds. docs/studies.md explains the file.
struct Study {
  std::filesystem::path file;
  std::filesystem::path directory;  // cells lie in it, each a run directory
  std::vector<StudyAxis> axes;
  std::vector<std::uint64_t> seeds;
  /// The label that the others are compared with, and the axis that has it.
  std::optional<std::string> baseline;
  std::size_t compared_axis = 0;
  StudyBudget budget;
  double flops_per_second = 0.0;  // of the machine; 0 = unknown
  bool keep_checkpoints = true;   // of cells that are finished
  std::vector<Cell> cells;        // seed by seed, so that a study cut short has whole seeds

  /// Values of a cell by their labels, axis by axis.
  std::vector<std::string> labels(const Cell& cell) const;
};

/// Reads a study and makes its cells. `overrides` ("--section.key=value") hold in every cell.
/// Throws InvalidArgument listing at once whatever is wrong, in the file and in any cell: unknown
/// keys, values out of range, cells that are the same, a base that is missing.
Study read_study(const std::filesystem::path& file, const std::vector<std::string>& overrides);

/// Names in the study's directory of cells that are none of its cells: the study was changed after
/// they ran.
std::vector<std::string> foreign_cells(const Study& study);

}  // namespace polymoe
