// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "parallel/checkpoint/save_observer.h"

namespace polymoe {

/// The whole of `polymoe` behind its name: runs the command that `args` name and returns the
/// process's exit code. A failure is one line on stderr. Once per process, as MPI has it.
/// `saves` is told of the checkpoints that a training run saves: tests kill ranks with it.
int run_program(const std::vector<std::string>& args, SaveObserver* saves = nullptr);

}  // namespace polymoe
