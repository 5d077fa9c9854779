// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <iosfwd>

#include "launch/studies/study.h"

namespace polymoe {

struct StudyRunOptions {
  int jobs = 1;                    // cells at the same time
  bool dry_run = false;            // says what would run, and runs nothing
  bool retry = false;              // cells that diverged (exit code 86) as well
  std::filesystem::path program;   // polymoe itself
  std::filesystem::path launcher;  // launch/mpirun/run, for cells of several ranks
};

/// Runs what is not finished, each cell a process of its own, and tells `out` about it. A cell that
/// another process holds is left to it; a branch waits for its trunk. A stop_request()
/// ends every cell at a checkpoint.
///
/// Returns exit_done when all cells are finished or held by others, exit_preempted when it was
/// stopped, and otherwise the exit code of the first cell that failed.
/// Throws InvalidArgument where the launcher is needed and missing; OutputFileError.
int run_study(const Study& study, const StudyRunOptions& options, std::ostream& out);

/// The file of this process's program.
std::filesystem::path own_program();
/// launch/mpirun/run beside it, in a build or installed; empty where there is none.
std::filesystem::path find_launcher(const std::filesystem::path& program);

}  // namespace polymoe
