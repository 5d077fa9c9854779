// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/checkpoints/resume.h"
#include "launch/config/config.h"
#include "launch/data/training_data.h"
#include "launch/step/training_model.h"
#include "launch/training/run_outputs.h"
#include "launch/training/step_guard.h"
#include "parallel/checkpoint/saver.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/log.h"
#include "runtime/stream.h"

namespace polymoe {

/// How far a run is: what a checkpoint holds beside tensors.
struct RunPosition {
  std::int64_t step = 0;         // done
  std::int64_t tokens = 0;       // predicted so far
  std::int64_t next_sample = 0;  // data position: samples drawn so far
};

/// What to say where a file system has no room for even one checkpoint; empty where it has.
std::string room_warning(std::uint64_t checkpoint_bytes, std::uint64_t free_bytes,
                         const std::string& run_directory);

/// The checkpoints of one run: the one it starts from, and those it writes on its way. All
/// functions but failed() and the plain readers are collective over the mesh.
class RunCheckpoints {
 public:
  /// The parts of a run that outlive this.
  struct Run {
    const Config& config;
    const ProcessMesh& mesh;
    TrainingData& data;
    const RunOutputs& outputs;
    StepGuard& guard;
  };

  /// Loads what checkpoint.resume says into `model`, or gives it its first values, lets the data go
  /// on from there, and allocates the saver's memory. `stream` is of the model's device;
  /// `observer` is told of this rank's saves, null = nobody. Throws InputFileError,
  /// InvalidArgument.
  RunCheckpoints(const Run& run, TrainingModel& model, Stream& stream, SaveObserver* observer);

  /// Where the run starts.
  const RunPosition& start() const { return start_; }

  /// A step was done: the newest checkpoint is sound where the steps behind it are. The newest
  /// sound one stays beside those that checkpoint.keep tells, so that a run which diverges has one
  /// from before. Not collective.
  void step_done(std::int64_t step);
  /// Begins a checkpoint unless that step has one. Waits for the one before, as finish() does.
  void save(const RunPosition& position);
  /// The same, and returns when it is committed: throws OutputFileError where it cannot be written,
  /// whatever checkpoint.on_error says.
  void save_last(const RunPosition& position);
  /// Returns when no checkpoint is under way. Throws OutputFileError, on every rank, when the last
  /// one could not be written and checkpoint.on_error = stop; with `continue` the log says so.
  void finish();
  /// Whether the one under way has ended with an error on this rank. Never waits.
  bool failed() const { return saver_->failed(); }
  /// Step of the newest checkpoint of this run, found or committed; -1 = none.
  std::int64_t newest() const;
  /// What was committed since this was last asked. Not collective.
  std::optional<CheckpointSaver::Committed> take_committed();
  /// The checkpoint that the run goes on from; empty = from the beginning.
  const std::string& resumed_from() const { return resumed_from_; }
  /// That save() and save_last() took since this was last asked.
  double take_seconds();
  /// How long work has gone on since the last checkpoint was begun, or since the start.
  double seconds_since_save() const;
  /// The orderly end, with no checkpoint under way.
  void shutdown() { saver_->shutdown(); }

  /// What a checkpoint of this rank holds.
  std::vector<TensorPiece> pieces();

 private:
  void load(const CheckpointReader& reader);
  void warn_of_room();

  const Run run_;
  TrainingModel& model_;
  Stream& stream_;
  Log log_;
  RunPosition start_;
  std::int64_t found_ = -1;  // step of this run's checkpoint that it was resumed from
  std::int64_t saved_ = -1;  // step of the newest checkpoint of this run, begun or found
  std::int64_t told_ = -1;   // step of the newest one that take_committed() has told of
  std::int64_t sound_ = -1;  // step of the newest checkpoint of this run that is sound
  std::int64_t sound_before_ = -1;
  std::string resumed_from_;
  double seconds_ = 0.0;
  std::chrono::steady_clock::time_point last_save_ = std::chrono::steady_clock::now();
  std::unique_ptr<CheckpointSaver> saver_;
};

}  // namespace polymoe
