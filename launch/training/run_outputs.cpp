// SPDX-License-Identifier: Apache-2.0
#include "launch/training/run_outputs.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include "launch/data/run_tokenizer.h"
#include "parallel/communication/agreement.h"
#include "runtime/files/file.h"

namespace polymoe {
namespace {

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

RunOutputs::RunOutputs(const Config& config, Communicator& world) : config_(config) {
  on_first_rank(world, [&] { directory_ = std::make_unique<RunDirectory>(config.run.dir); });
}

void RunOutputs::open(const std::string& environment, std::int64_t steps_done,
                      Communicator& world) {
  on_first_rank(world, [&] {
    const std::filesystem::path& run = directory_->path();
    replace_file(run / "config.ini", to_ini(config_));
    replace_file(run / "environment.json", environment);
    remember_tokenizer(config_.data.train, run);
    metrics_.emplace(run / "metrics.jsonl", steps_done);
    scalars_.emplace(run / "tensorboard", steps_done, wall_time());
  });
}

void RunOutputs::check_in_place(Communicator& world) const {
  on_first_rank(world, [&] { directory_->check_in_place(); });
}

void RunOutputs::show_progress(const ProgressOutput& output, std::int64_t first_step,
                               std::int64_t last_step) {
  progress_.emplace(directory_ ? output : ProgressOutput(), first_step, last_step);
}

void RunOutputs::validated(std::int64_t step, double loss) {
  if (progress_)
    progress_->note(fmt::format("step {}  validation loss {:.4f}  perplexity {:.2f}", step, loss,
                                std::exp(loss)));
}

void RunOutputs::committed(const CheckpointSaver::Committed& checkpoint) {
  if (progress_)
    progress_->note(fmt::format("checkpoint {}  {}  {:.1f} s", checkpoint.path.string(),
                                short_bytes(static_cast<double>(checkpoint.bytes)),
                                checkpoint.seconds));
}

void RunOutputs::report(const StepMetrics& metrics) {
  if (metrics_) metrics_->write(metrics_row(metrics));
  if (scalars_) scalars_->add_scalars(metrics.step, wall_time(), metrics_scalars(metrics));
}

void RunOutputs::step_done(const StepMetrics& metrics, double seconds) {
  if (progress_) progress_->step_done(metrics, seconds);
}

}  // namespace polymoe
