// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/training/run_observer.h"

namespace polymoe {

/// The whole of `polymoe` behind its name: runs the command that `args` name and returns the
/// process's exit code. A failure is one line on stderr. Once per process, as MPI has it.
/// `observer` is told of what a training run does: tests make ranks fail with it.
int run_program(const std::vector<std::string>& args, RunObserver* observer = nullptr);

}  // namespace polymoe
