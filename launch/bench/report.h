// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/bench/model_bench.h"
#include "launch/bench/timing.h"
#include "launch/config/config.h"
#include "launch/machine/machine_rates.h"
#include "launch/step/memory_plan.h"
#include "runtime/files/json.h"

namespace polymoe {

/// Where and on what a benchmark ran.
struct BenchSetting {
  int ranks = 1;
  int threads_per_rank = 1;
  std::string device = {};     // that a rank computes on, where it is not the processor
  SquareProduct product = {};  // whose rate is measured
  MachineRates rates = {};
  LinkRates link = {};     // of a rank; known where a step is measured on several
  std::size_t memory = 0;  // bytes that a rank may take
};

/// All that `polymoe bench` measured.
struct BenchReport {
  BenchSetting setting = {};
  std::vector<BenchResult> results = {};
  std::optional<StepDetails> step = {};
  MemoryPlan plan = {};
};

/// The lines above the table: machine, its rates, the table's head.
std::string bench_head(const BenchSetting& setting);
/// A line of the table.
std::string bench_line(const BenchResult& result, const BenchSetting& setting);
/// What follows on the table: the step in tokens per second, phases and memory.
std::string step_text(const StepDetails& step, const MemoryPlan& plan);

Json bench_json(const BenchReport& report, const Config& config);

}  // namespace polymoe
