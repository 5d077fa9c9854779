// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "launch/config/config.h"
#include "launch/machine/machine_rates.h"
#include "runtime/timeline.h"

namespace polymoe {

/// A training step that `polymoe bench --json` measured, and what the machine did meanwhile.
struct MeasuredStep {
  std::string file;
  Config config;  // train.micro_batch as it was, also where it was automatic
  int ranks = 1;
  int threads_per_rank = 1;
  bool on_gpu = false;
  double seconds = 0.0;                                                    // of the step
  std::array<double, static_cast<std::size_t>(Phase::count)> phases = {};  // add up to `seconds`
  double copy = 0.0;       // bytes per second of a rank, reads and writes counted
  LinkRates link = {};     // of a rank; not known where there was one
  std::size_t memory = 0;  // bytes that a rank may take

  double phase(Phase which) const { return phases[static_cast<std::size_t>(which)]; }
};

/// Throws InputFileError where the file holds no step, or is of a version that did not write all of
/// it.
MeasuredStep read_measured_step(const std::filesystem::path& bench_json);

}  // namespace polymoe
