// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/commands/command_line.h"

namespace polymoe {

/// `polymoe plan --rates`: the time of every layout that fits, or the job script of the best one.
int run_plan_layouts(const CommandLine& line);

/// Throws InvalidArgument where an option that needs --rates is given without it.
void check_plan_without_rates(const CommandLine& line);

}  // namespace polymoe
