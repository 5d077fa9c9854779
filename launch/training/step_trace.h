// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/step_range.h"
#include "launch/training/trace_file.h"
#include "parallel/communication/ledger.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/cuda/event_pool.h"
#include "runtime/stream.h"
#include "runtime/timeline.h"

namespace polymoe {

/// Writes down what a rank does in the steps of run.trace, and then the trace of all ranks as
/// RUN/trace-FIRST-LAST.json. On GPUs marks phases for NVIDIA's profilers too, in every step.
///
/// Ranks' clocks are set to zero at a barrier before the first of these steps. A trace that cannot
/// be written is told and ends nothing.
class StepTrace {
 public:
  /// `ledger` is of this rank, told of its operations in host memory; null = they are left out.
  /// Both outlive this.
  StepTrace(const Config& config, const ProcessMesh& mesh, Stream& stream, Ledger* ledger);
  ~StepTrace();
  StepTrace(const StepTrace&) = delete;
  StepTrace& operator=(const StepTrace&) = delete;

  /// The run will do these steps. Says where run.trace is none of them.
  void run_begins(std::int64_t first, std::int64_t last);
  /// Collective at the first step of the trace.
  void step_begins(std::int64_t step);
  /// The host turns to `phase`.
  void phase_begins(Phase phase);
  /// The step is done, the stream idle. Collective after the last step of the trace.
  void step_ends(std::int64_t step);
  /// Writes what there is of a trace that did not come to its last step. Collective.
  void run_ends();

 private:
  struct Mark {  // of the stream
    Phase phase;
    void* event;
  };

  void begin();
  void write();
  void end_phase(double now);
  void settle_marks();
  double now() const;

  const Config& config_;
  const ProcessMesh& mesh_;
  Stream& stream_;
  Ledger* const ledger_;
  const bool on_gpu_;
  const std::optional<StepRange> range_;
  bool active_ = false;
  double origin_ = 0.0;  // by ledger_time()
  Phase phase_ = Phase::other;
  double phase_begin_ = 0.0, step_begin_ = 0.0;
  std::int64_t last_step_ = 0;
  void* base_ = nullptr;  // event at time 0
  std::vector<Mark> marks_;
  cuda::EventPool events_;
  std::mutex mutex_;  // guards the operations of trace_
  RankTrace trace_;
};

}  // namespace polymoe
