// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/training/progress.h"
#include "launch/training/run_directory.h"
#include "launch/training/step_metrics.h"
#include "parallel/checkpoint/saver.h"
#include "parallel/communication/communicator.h"
#include "runtime/files/metrics_writer.h"
#include "runtime/files/tensorboard_writer.h"
#include "runtime/log.h"

namespace polymoe {

/// What a run tells: the files of its directory beside the checkpoints, and the progress line. Only
/// rank 0 writes; on the others nothing happens.
class RunOutputs {
 public:
  /// Locks run.dir. What fails on rank 0 is thrown on every rank. Collective. Throws
  /// OutputFileError, InvalidArgument.
  RunOutputs(const Config& config, Communicator& world);

  /// Writes config.ini, environment.json with that content, and the tokenizer; metrics.jsonl,
  /// experts.jsonl and tensorboard/ go on behind step `steps_done`. Collective; throws
  /// OutputFileError alike.
  void open(const std::string& environment, std::int64_t steps_done, Communicator& world);

  /// Nothing was refused: from here on the directory stays.
  void begin() {
    if (directory_) directory_->begin();
  }

  /// What the log should say of the directory; empty where all is well.
  std::string warning() const { return directory_ ? directory_->warning() : std::string(); }
  /// Throws OutputFileError, on every rank, where run.dir is not the directory that was locked any
  /// more. Collective.
  void check_in_place(Communicator& world) const;

  /// Shows progress from `first_step` to `last_step`.
  void show_progress(const ProgressOutput& output, std::int64_t first_step, std::int64_t last_step);

  /// Takes down a validation after `step`.
  void validated(std::int64_t step, double loss);
  /// Takes down a scoring after `step`: a line a task.
  void scored(std::int64_t step, const std::string& lines);
  /// A row of metrics.jsonl and the scalars of TensorBoard, and each moe.report_every steps a row
  /// of experts.jsonl. Where they cannot be written and checkpoint.on_error = continue, the log
  /// says so and they are tried again a minute later; rows between are lost. With `stop` failed()
  /// is true from here on. Never throws OutputFileError.
  void report(const StepMetrics& metrics);
  /// The results of the evaluations after metrics.step, into the same row of metrics.jsonl, which
  /// is the last one, and to TensorBoard. Failures are met likewise.
  void complete(const StepMetrics& metrics);
  /// Whether the last row of metrics.jsonl is of that step and has all these keys. Of rank 0; false
  /// on others.
  bool row_has(std::int64_t step, const std::vector<std::string>& keys) const;
  bool failed() const { return failure_ != nullptr; }
  /// What report() met; null for nothing.
  std::exception_ptr take_failure() { return std::exchange(failure_, nullptr); }
  /// A checkpoint was committed.
  void committed(const CheckpointSaver::Committed& checkpoint);
  /// Mean loss over the last steps; 0 on other ranks than the first.
  double recent_loss() const { return progress_ ? progress_->recent_loss() : 0.0; }
  /// That step took `seconds`, all its work included.
  void step_done(const StepMetrics& metrics, double seconds);
  /// Ends the progress line.
  void close_progress() { progress_.reset(); }

 private:
  void try_to_write(std::int64_t step, const std::function<void()>& write);
  void open_writers(std::int64_t steps_done);
  std::filesystem::path experts_path() const;
  void report_experts(const StepMetrics& metrics);

  const Config& config_;
  std::unique_ptr<RunDirectory> directory_;  // rank 0, like what follows
  std::exception_ptr failure_;
  Log log_;
  std::chrono::steady_clock::time_point retry_at_;  // where there are no writers
  std::optional<MetricsWriter> metrics_;
  std::optional<MetricsWriter> experts_;  // from the first row on
  std::optional<TensorBoardWriter> scalars_;
  std::optional<TrainingProgress> progress_;
};

}  // namespace polymoe
