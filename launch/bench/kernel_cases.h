// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launch/bench/timing.h"
#include "launch/config/config.h"
#include "launch/step/memory_plan.h"
#include "runtime/context.h"

namespace polymoe {

/// A kernel of the training step at the shapes that it has there.
struct KernelCase {
  std::string name;
  std::string shape;
  WorkFloor floor;
  /// Takes inputs and outputs from the arena; what it returns runs the kernel once on them.
  std::function<std::function<void()>(ExecutionContext&)> prepare;
};

/// The matrix products and the kernels of one rank's micro-batch of `config`, in the order of the
/// step: rows are spread evenly over the experts that the rank holds under `parallel.expert`, and
/// the layout's ranks share the optimizer's work.
std::vector<KernelCase> kernel_cases(const Config& config, const PlannedLayout& layout);

}  // namespace polymoe
