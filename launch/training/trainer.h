// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/schedule.h"
#include "launch/data/training_data.h"
#include "launch/machine/signals.h"
#include "launch/step/training_model.h"
#include "launch/training/rank_reports.h"
#include "launch/training/run_checkpoints.h"
#include "launch/training/run_evaluation.h"
#include "launch/training/run_outputs.h"
#include "launch/training/step_guard.h"
#include "launch/training/step_metrics.h"
#include "launch/training/step_samples.h"
#include "launch/training/step_trace.h"
#include "moe/language_model.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/execution.h"
#include "runtime/log.h"
#include "runtime/progress.h"

namespace polymoe {

/// What a rank of a run is given beside the configuration.
struct TrainerOptions {
  Device device = Device::cpu();
  int device_sharers = 1;  // ranks on that GPU
  int threads = 1;         // of this rank
  /// Asked before the first step and once a step: end here with a checkpoint? One rank that says so
  /// ends all. May be empty.
  std::function<StopRequest()> stop_requested = {};
  /// Told the step under way, from 1. May be empty.
  std::function<void(std::int64_t)> step_begins = {};
  /// Told what the host turns to within a step. May be empty.
  std::function<void(Phase)> phase_begins = {};
  /// Told where in the model it turns to. May be empty.
  std::function<void(const ModelPlace&)> place_begins = {};
  /// Told what it does between steps, "validating", "scoring" or "saving", and with an empty text
  /// that it goes back to steps. May be empty.
  std::function<void(std::string_view)> work_begins = {};
  ProgressOutput progress = {};   // of rank 0
  SaveObserver* saves = nullptr;  // told of this rank's checkpoints; null = none
  Ledger* ledger = nullptr;       // of this rank, for a trace; null = without its operations
  std::string environment = {};   // content of RUN/environment.json
  std::int64_t rate_extent = 0;   // of the matrix product whose rate mfu is a share of; 0 = one
                                  // that fills the device
};

enum class RunEnd : std::uint8_t {
  finished,   // train.steps are done, and the evaluations that are due after the last one
  stopped,    // by train.stop_after
  preempted,  // by stop_requested; all steps may be done then, and an evaluation be left
};

/// Trains one model on the ranks of a mesh, from the newest checkpoint of its run directory or from
/// the beginning: the loop over steps. What it reads is StepSamples' matter, what it starts from
/// and saves RunCheckpoints', how it is evaluated on the way RunEvaluation's, what it tells
/// RunOutputs'.
class Trainer {
 public:
  /// The configuration has no training_violations(). Everything else that can be refused is refused
  /// here, before the first step: run directory, token files, checkpoint. Sets the number of
  /// threads of the calling thread. Collective. Throws InvalidArgument, InputFileError,
  /// OutputFileError.
  Trainer(const Config& config, const ProcessMesh& mesh, const TrainerOptions& options);
  ~Trainer();

  /// Steps until the end that it returns, each reported in RUN/metrics.jsonl; a checkpoint of the
  /// last step is committed before that is evaluated. What earlier starts left of evaluations of
  /// the step that the run goes on from is made first. Collective, once. A step whose loss or
  /// gradient norm is not finite is not applied, and none is saved until one is again; throws
  /// NotFiniteError, on every rank, after train.max_skipped of them in a row. Throws
  /// OutputFileError, on every rank, when a checkpoint could not be written and checkpoint.on_error
  /// = stop, or it was the last one; Error where replicas differ.
  RunEnd run();

  std::int64_t steps_done() const { return position_.step; }
  /// Predicted since the beginning of training.
  std::int64_t tokens_done() const { return position_.tokens; }
  /// The checkpoint that the run goes on from; empty = from the beginning.
  const std::string& resumed_from() const { return checkpoints_->resumed_from(); }
  /// Losses of the last steps of run(), and of its last validation; nothing where there was none.
  double recent_loss() const { return recent_loss_; }
  std::optional<double> valid_loss() const { return evaluation_->valid_loss(); }
  /// The last steps, up to steps_done(), that were not applied because loss or gradient was not
  /// finite; 0 where the last one was.
  std::int64_t not_finite_at_end() const { return guard_.not_finite_in_a_row(); }
  /// Where that began, as far as this start saw it.
  const std::string& where_not_finite() const { return where_not_finite_; }
  /// What the last scoring of run() met that is not finite; empty where all was.
  const std::string& scoring_not_finite() const { return evaluation_->not_finite(); }
  /// What ended a preempted run, the same on every rank.
  StopRequest stopped_by() const { return stopped_by_; }
  const ParameterStore& parameters() const { return model_.parameters(); }
  /// What a checkpoint of this rank holds.
  std::vector<TensorPiece> pieces() { return checkpoints_->pieces(); }

 private:
  struct Sums {  // of a step, over all ranks
    LossTerms losses;
    StopRequest stop = StopRequest::none;
    bool save_failed = false;
    bool save_due = false;       // by time
    bool output_failed = false;  // of rank 0
  };

  bool first_rank() const { return mesh_.world().rank() == 0; }
  void log_start();
  LossTerms forward_backward();
  Sums sum_over_ranks(const LossTerms& losses);
  StepVerdict judge(const StepMetrics& metrics);
  void tell_not_finite(const StepMetrics& metrics);
  StopRequest agreed_stop();
  bool asked_to_stop();
  void step(StepMetrics& metrics);
  void tell_of_rounds(const StepMetrics& metrics);
  void begin_work(std::string_view work);
  bool save_is_due() const;
  void save(bool last);
  void evaluate(const Evaluations& wanted);
  Evaluations made_up_for() const;
  void end_if_output_failed(const Sums& sums);

  const Config config_;
  const ProcessMesh& mesh_;
  const TrainerOptions options_;
  Log log_;
  RunOutputs outputs_;
  TrainingData data_;
  LearningRate learning_rate_;
  const std::size_t arena_bytes_;  // decided before the model takes memory
  TrainingModel model_;
  Execution execution_;
  StepTrace trace_;
  RankReports rank_reports_;
  StepGuard guard_;
  StepSamples samples_;
  std::optional<RunCheckpoints> checkpoints_;
  std::optional<RunEvaluation> evaluation_;
  RunPosition position_;
  StopRequest stopped_by_ = StopRequest::none;
  bool save_due_ = false;  // by time, in the step that was done last
  bool save_put_off_ = false;
  std::string where_not_finite_;  // in the first of the last steps that were not finite
  bool evaluation_left_ = false;  // of the last step, for stopped_by_
  double product_rate_ = 0.0;
  double recent_loss_ = 0.0;
  bool told_of_rounds_ = false;
};

}  // namespace polymoe
