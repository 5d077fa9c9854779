// SPDX-License-Identifier: Apache-2.0
#include "launch/training/run_outputs.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/run_tokenizer.h"
#include "launch/training/run_directory.h"
#include "launch/training/step_metrics.h"
#include "parallel/checkpoint/saver.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

RunOutputs::RunOutputs(const Config& config, Communicator& world)
    : config_(config), log_(world.rank(), run_log(config.run.dir)) {
  on_first_rank(world, [&] { directory_ = std::make_unique<RunDirectory>(config.run.dir); });
}

void RunOutputs::open(const std::string& environment, std::int64_t steps_done,
                      Communicator& world) {
  on_first_rank(world, [&] {
    const std::filesystem::path& run = directory_->path();
    replace_file(run / "config.ini", to_ini(config_));
    replace_file(run / "environment.json", environment);
    remember_tokenizer(config_.data.train, run);
    open_writers(steps_done);
  });
}

void RunOutputs::check_in_place(Communicator& world) const {
  on_first_rank(world, [&] { directory_->check_in_place(); });
}

void RunOutputs::open_writers(std::int64_t steps_done) {
  metrics_.emplace(directory_->path() / "metrics.jsonl", steps_done);
  scalars_.emplace(directory_->path() / "tensorboard", steps_done, wall_time());
  // A model without experts has no such file.
  if (std::filesystem::exists(experts_path())) experts_.emplace(experts_path(), steps_done);
}

std::filesystem::path RunOutputs::experts_path() const {
  return directory_->path() / "experts.jsonl";
}

void RunOutputs::report_experts(const StepMetrics& metrics) {
  const std::int64_t every = config_.expert_report_every;
  if (metrics.routing.empty() || every == 0 || metrics.step % every != 0) return;
  if (!experts_) experts_.emplace(experts_path(), metrics.step - 1);
  experts_->write(experts_row(metrics));
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

void RunOutputs::scored(std::int64_t step, const std::string& lines) {
  if (!progress_) return;
  for (std::size_t begin = 0; begin < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', begin), lines.size());
    progress_->note(fmt::format("step {}  {}", step, lines.substr(begin, end - begin)));
    begin = end + 1;
  }
}

void RunOutputs::committed(const CheckpointSaver::Committed& checkpoint) {
  if (progress_)
    progress_->note(fmt::format("checkpoint {}  {}  {:.1f} s", checkpoint.path.string(),
                                short_bytes(static_cast<double>(checkpoint.bytes)),
                                checkpoint.seconds));
}

void RunOutputs::report(const StepMetrics& metrics) {
  try_to_write(metrics.step, [&] {
    metrics_->write(metrics_row(metrics));
    scalars_->add_scalars(metrics.step, wall_time(), metrics_scalars(metrics));
    report_experts(metrics);
  });
}

void RunOutputs::complete(const StepMetrics& metrics) {
  try_to_write(metrics.step, [&] {
    metrics_->complete(evaluation_row(metrics));
    scalars_->add_scalars(metrics.step, wall_time(), evaluation_scalars(metrics));
  });
}

bool RunOutputs::row_has(std::int64_t step, const std::vector<std::string>& keys) const {
  if (!metrics_ || metrics_->last().is_null()) return false;
  const Json& row = metrics_->last();
  return row.at("step").as_integer() == step &&
         std::ranges::all_of(keys, [&](const auto& key) { return row.find(key) != nullptr; });
}

/// Opens the files before where that is due.
void RunOutputs::try_to_write(std::int64_t step, const std::function<void()>& write) {
  if (!directory_ || failure_) return;
  const auto now = std::chrono::steady_clock::now();
  try {
    if (!metrics_) {
      if (now < retry_at_) return;
      open_writers(step - 1);
      log_.warning(fmt::format("metrics are written again, from step {} on", step));
    }
    write();
  } catch (const OutputFileError& error) {
    metrics_.reset();
    scalars_.reset();
    experts_.reset();
    retry_at_ = now + std::chrono::minutes(1);
    if (config_.checkpoint.on_error == SaveFailure::stop) {
      failure_ = std::current_exception();
    } else {
      log_.warning(fmt::format("{}; going on without metrics (checkpoint.on_error = continue)",
                               error.what()));
    }
  }
}

void RunOutputs::step_done(const StepMetrics& metrics, double seconds) {
  if (progress_) progress_->step_done(metrics, seconds);
}

}  // namespace polymoe
