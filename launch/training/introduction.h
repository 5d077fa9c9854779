// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/step/memory_plan.h"
#include "runtime/device.h"

namespace polymoe {

/// What a run is, before its first step.
struct RunIntroduction {
  Config config;
  PlannedLayout layout;
  MemoryPlan plan = {};
  std::size_t memory = 0;         // that a rank may take
  std::string device = {};        // "NVIDIA H200, 139.8 GiB, ..." or the processor's name
  std::string precision = {};     // "f32", "bf16"
  std::int64_t steps_done = 0;    // by the checkpoint that it goes on from
  std::string resumed_from = {};  // that checkpoint; empty = from the beginning
  std::string tokenizer = {};     // empty = none is known
};

/// A block of "name value" lines: model, device, ranks, batch, length, memory, tokenizer,
/// directory. The data has a table of its own; see TrainingData::table.
std::vector<std::string> introduction(const RunIntroduction& run);

/// What the end of a run tells beside what ended it.
struct RunSummary {
  std::string directory;
  std::int64_t steps_done = 0;
  std::int64_t steps = 0;   // of the whole run
  std::int64_t tokens = 0;  // since the beginning of training
  double seconds = 0.0;     // of this invocation
  std::int64_t steps_here = 0, tokens_here = 0;
  double loss = 0.0;                      // smoothed; of the last steps
  std::optional<double> valid_loss = {};  // the last one
  std::string tokens_to_evaluate = {};    // a token file for the command that comes next; or empty
  bool has_tokenizer = false;
};

/// Likewise: losses, time, where everything is, and the commands that come next.
std::vector<std::string> summary(const RunSummary& run);

}  // namespace polymoe
