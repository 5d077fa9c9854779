// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/checkpoints/resume.h"
#include "launch/config/config.h"
#include "launch/config/schedule.h"
#include "launch/data/training_data.h"
#include "launch/machine/signals.h"
#include "launch/step/training_model.h"
#include "launch/training/progress.h"
#include "launch/training/run_directory.h"
#include "launch/training/step_metrics.h"
#include "moe/language_model.h"
#include "parallel/checkpoint/saver.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"
#include "runtime/files/metrics_writer.h"
#include "runtime/files/tensorboard_writer.h"
#include "runtime/log.h"

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
  ProgressOutput progress = {};   // of rank 0
  SaveObserver* saves = nullptr;  // told of this rank's checkpoints; null = none
  std::string environment = {};   // content of RUN/environment.json
  std::int64_t rate_extent = 0;   // of the matrix product whose rate mfu is a share of; 0 = one
                                  // that fills the device
};

enum class RunEnd : std::uint8_t {
  finished,   // train.steps are done
  stopped,    // by train.stop_after
  preempted,  // by stop_requested
};

/// Trains one model on the ranks of a mesh, from the newest checkpoint of its run directory or from
/// the beginning.
class Trainer {
 public:
  /// Everything that can be refused is refused here, before the first step: layout, run directory,
  /// token files, checkpoint. Sets the number of threads of the calling thread. Collective.
  /// Throws InvalidArgument, InputFileError, OutputFileError.
  Trainer(const Config& config, const ProcessMesh& mesh, const TrainerOptions& options);
  ~Trainer();

  /// Steps until the end that it returns, each reported in RUN/metrics.jsonl; a checkpoint of the
  /// last step is committed on return. Collective, once.
  /// Throws NotFiniteError, on every rank, when a step's loss or gradient norm is not finite: that
  /// step is not applied and no checkpoint is written. Throws OutputFileError, on every rank, when
  /// a checkpoint could not be written and checkpoint.on_error = stop, or it was the last one.
  RunEnd run();

  std::int64_t steps_done() const { return step_; }
  /// What ended a preempted run, the same on every rank.
  StopRequest stopped_by() const { return stopped_by_; }
  const ParameterStore& parameters() const { return model_.parameters(); }
  /// What a checkpoint of this rank holds.
  std::vector<TensorPiece> pieces();

 private:
  struct Sums {  // of a step, over all ranks
    LossTerms losses;
    StopRequest stop = StopRequest::none;
    bool save_failed = false;
  };

  bool first_rank() const { return mesh_.world().rank() == 0; }
  void start();
  void load(const CheckpointReader& reader);
  void open_outputs();
  void save(bool last);
  void finish_save();
  LossTerms forward_backward();
  Sums sum_over_ranks(const LossTerms& losses);
  StopRequest agreed_stop();
  void step(StepMetrics& metrics);
  double validate();
  void report(StepMetrics& metrics);

  const Config config_;
  const ProcessMesh& mesh_;
  const TrainerOptions options_;
  Log log_;
  std::unique_ptr<RunDirectory> directory_;  // rank 0
  TrainingData data_;
  LearningRate learning_rate_;
  Stream stream_;
  const std::size_t arena_bytes_;  // decided before the model takes memory
  TrainingModel model_;
  Arena arena_;
  Timeline timeline_{stream_};
  ExecutionContext context_{stream_, arena_, timeline_};
  double product_rate_ = 0.0;

  std::int64_t step_ = 0;    // done
  std::int64_t tokens_ = 0;  // predicted so far
  TrainingState state_;
  std::int64_t found_ = -1;  // step of this run's checkpoint that it was resumed from
  std::int64_t saved_ = -1;  // step of the newest checkpoint of this run, begun or found
  std::unique_ptr<CheckpointSaver> saver_;
  StopRequest stopped_by_ = StopRequest::none;
  double checkpoint_seconds_ = 0.0;  // waited for since the last row

  std::optional<MetricsWriter> metrics_;      // rank 0
  std::optional<TensorBoardWriter> scalars_;  // rank 0
};

}  // namespace polymoe
