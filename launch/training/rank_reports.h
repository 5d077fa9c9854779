// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/machine/machine_state.h"
#include "launch/training/step_metrics.h"
#include "launch/training/waiting.h"
#include "moe/language_model.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/device.h"
#include "runtime/log.h"

namespace polymoe {

/// What ranks did over some steps, on rank 0.
struct RankReport {
  std::int64_t first_step = 1, last_step = 1;
  std::vector<RankTimes> ranks;       // seconds and rows a step
  std::vector<std::string> machines;  // per rank, as text
  std::vector<std::string> hosts;
  WaitingReport waiting;

  /// One line: the mean rank's step, and the slowest ranks with how their machines do.
  std::string text() const;
  /// Whether a tenth of the time at work is lost to ranks that are slow for their rows.
  bool is_slow_hardware() const;
};

/// Reports every run.report_ranks steps what the ranks of a run wait for, in its log and in the row
/// of metrics.jsonl; on the terminal too where hardware is slow, once in ten reports at most.
class RankReports {
 public:
  RankReports(const Config& config, const ProcessMesh& mesh, Device device);

  /// Notes a step whose seconds and routing are there; adds the report to `metrics` on rank 0 where
  /// one is due. Collective then.
  void step_done(StepMetrics& metrics, LanguageModel& model, Stream& stream);

 private:
  void report(StepMetrics& metrics, LanguageModel& model, Stream& stream);
  void tell(const RankReport& report);

  const Config& config_;
  const ProcessMesh& mesh_;
  const Device device_;
  Log log_;
  RankTimes own_;
  RankLoad load_;
  std::int64_t steps_ = 0;          // since the last report
  std::int64_t quiet_reports_ = 0;  // before the terminal is told again
};

}  // namespace polymoe
