// SPDX-License-Identifier: Apache-2.0
#include "launch/training/run_checkpoints.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/checkpoints/layout_pieces.h"
#include "launch/checkpoints/resume.h"
#include "launch/config/config.h"
#include "launch/step/memory_plan.h"
#include "launch/step/training_model.h"
#include "launch/training/run_directory.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/save_observer.h"
#include "parallel/checkpoint/saver.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/collective.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

fs::path folder_of(const Config& config) { return fs::path(config.run.dir) / checkpoints_folder; }

}  // namespace

std::string room_warning(std::uint64_t checkpoint_bytes, std::uint64_t free_bytes,
                         const std::string& run_directory) {
  constexpr double mega = 1e6;
  if (free_bytes >= checkpoint_bytes) return "";
  return fmt::format(
      "a checkpoint takes {:.1f} MB, and {:.1f} MB are free where run.dir = {} is: none can be "
      "written before there is room",
      static_cast<double>(checkpoint_bytes) / mega, static_cast<double>(free_bytes) / mega,
      run_directory);
}

RunCheckpoints::RunCheckpoints(const Run& run, TrainingModel& model, Stream& stream,
                               SaveObserver* observer)
    : run_(run),
      model_(model),
      stream_(stream),
      log_(run.mesh.world().size() == 1 ? Log::alone : run.mesh.world().rank(),
           run_log(run.config.run.dir)) {
  const Config& config = run.config;
  const ProcessMesh& mesh = run.mesh;
  const StartPoint chosen = choose_start(config.checkpoint, config.run.dir, mesh.world());
  if (mesh.world().rank() == 0)
    for (const std::string& note : chosen.notes) log_.warning(note);
  if (chosen.checkpoint) {
    load(*chosen.checkpoint);
  } else {
    model.optimizer().initialize(config.train.seed, stream);
  }
  saver_ = std::make_unique<CheckpointSaver>(
      CheckpointSaver::Options{.root = folder_of(config),
                               .keep = config.checkpoint.keep,
                               .staging_bytes = staging_bytes(config, pieces()),
                               .observer = observer},
      mesh.world().split(0));
  warn_of_room();
}

/// Better now than at the first save. Collective.
void RunCheckpoints::warn_of_room() {
  std::int64_t bytes = 0;  // of all ranks
  for (const TensorPiece& piece : pieces())
    bytes += piece.data.elements() * static_cast<std::int64_t>(size_of(DType::f32));
  run_.mesh.world().all_reduce(Tensor(&bytes, {1}, DType::i64, Device::cpu()), Reduction::sum,
                               stream_);
  std::error_code error;
  const fs::space_info space = fs::space(run_.config.run.dir, error);
  if (error || run_.mesh.world().rank() != 0) return;
  const std::string warning =
      room_warning(static_cast<std::uint64_t>(bytes), space.available, run_.config.run.dir);
  if (!warning.empty()) log_.warning(warning);
}

void RunCheckpoints::load(const CheckpointReader& reader) {
  const fs::path& checkpoint = reader.directory();
  const CheckpointInfo& info = reader.info();
  check_same_model(run_.config, info, checkpoint);
  const TrainingState state = TrainingState::from_text(info.state, checkpoint.string());
  reader.read(pieces_to_load(model_.optimizer(), model_.model(), state.moments), stream_);
  start_ = {.step = info.step, .tokens = info.tokens, .next_sample = state.next_sample};
  try {
    run_.guard.restore(state.guard);
  } catch (const InvalidArgument& error) {
    throw InputFileError(checkpoint.string(), fmt::format("its trainer state: {}", error.what()));
  }
  // The bias corrections count the updates.
  model_.optimizer().set_steps_done(std::max<std::int64_t>(info.step - run_.guard.skipped(), 0));
  if (fs::weakly_canonical(checkpoint.parent_path()) ==
      fs::weakly_canonical(folder_of(run_.config))) {
    saved_ = found_ = info.step;
    sound_ = state.sound;
  }
  resumed_from_ =
      fmt::format("{} (step {}, {} rank{}, expert parallelism {})", checkpoint.string(), info.step,
                  info.ranks, info.ranks == 1 ? "" : "s", info.expert_parallel);
  log_.info("resumed from " + resumed_from_);
  for (const std::string& line :
       run_.data.go_on(state.data, state.next_sample, info.tokens, run_.mesh.world()))
    log_.info("data: " + line);
  if (!state.moments)
    log_.info("that checkpoint holds no optimizer state: the moments start at zero");
  for (const std::string& line : changed_settings(run_.config, info, checkpoint))
    log_.info("changed since that checkpoint: " + line);
}

std::vector<TensorPiece> RunCheckpoints::pieces() {
  return pieces_to_save(model_.optimizer(), model_.model(), run_.mesh.world().rank());
}

void RunCheckpoints::step_done(std::int64_t step) {
  if (saved_ >= step || !run_.guard.sound() || sound_ == saved_) return;
  sound_before_ = sound_;
  sound_ = saved_;
}

void RunCheckpoints::save(const RunPosition& position) {
  if (saved_ == position.step) return;
  const auto begin = Clock::now();
  finish();
  run_.outputs.check_in_place(run_.mesh.world());
  saved_ = position.step;
  TrainingState state{.next_sample = position.next_sample};
  state.data = run_.data.state(position.next_sample);
  state.guard = run_.guard.state();
  state.sound = sound_;
  // A run that has ended well needs nothing to go back to.
  const bool ended = position.step >= run_.config.train.steps && run_.guard.sound();
  last_save_ = Clock::now();
  saver_->start({.step = position.step,
                 .tokens = position.tokens,
                 .ranks = run_.mesh.world().size(),
                 .expert_parallel = run_.mesh.expert_parallel(),
                 .config = to_ini(run_.config),
                 .state = state.to_text()},
                pieces(), stream_, ended ? -1 : sound_);
  seconds_ += std::chrono::duration<double>(Clock::now() - begin).count();
}

void RunCheckpoints::save_last(const RunPosition& position) {
  save(position);
  const auto begin = Clock::now();
  saver_->wait();
  seconds_ += std::chrono::duration<double>(Clock::now() - begin).count();
}

void RunCheckpoints::finish() {
  try {
    saver_->wait();
  } catch (const OutputFileError& error) {
    if (run_.config.checkpoint.on_error == SaveFailure::stop) throw;
    if (sound_ == saved_) sound_ = sound_before_;
    saved_ = newest();
    if (run_.mesh.world().rank() == 0)
      log_.warning(fmt::format("{}; going on (checkpoint.on_error = continue)", error.what()));
  }
}

std::int64_t RunCheckpoints::newest() const { return std::max(found_, saver_->committed()); }

std::optional<CheckpointSaver::Committed> RunCheckpoints::take_committed() {
  if (saver_->committed() <= told_) return std::nullopt;
  told_ = saver_->committed();
  return saver_->last();
}

double RunCheckpoints::seconds_since_save() const {
  return std::chrono::duration<double>(Clock::now() - last_save_).count();
}

double RunCheckpoints::take_seconds() { return std::exchange(seconds_, 0.0); }

}  // namespace polymoe
