// SPDX-License-Identifier: Apache-2.0
#include "launch/training/trainer.h"

#include <fmt/core.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "launch/config/config.h"
#include "launch/data/token_rows.h"
#include "launch/machine/machine_rates.h"
#include "launch/machine/signals.h"
#include "launch/step/arena_size.h"
#include "launch/training/not_finite.h"
#include "launch/training/replica_check.h"
#include "launch/training/run_checkpoints.h"
#include "launch/training/run_directory.h"
#include "launch/training/run_evaluation.h"
#include "launch/training/step_guard.h"
#include "launch/training/step_metrics.h"
#include "launch/training/step_samples.h"
#include "moe/language_model.h"
#include "moe/model_size.h"
#include "moe/routing_statistics.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

using Clock = Timeline::Clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// A square product that keeps the device busy, and fits the arena.
std::int64_t filling_extent(const Arena& arena) {
  std::int64_t extent = arena.device().type == DeviceType::cuda ? 8192 : 1024;
  while (static_cast<std::size_t>(3 * extent * extent) * size_of(DType::f32) > arena.capacity())
    extent /= 2;
  return extent;
}

/// The options, whose threads are set for all that follows: what data is counted by, too.
const TrainerOptions& with_threads_set(const TrainerOptions& options) {
  omp_set_num_threads(options.threads);
  return options;
}

std::string names_of(const Evaluations& evaluations) {
  if (!evaluations.scoring) return "validation";
  return evaluations.validation ? "validation and the scoring" : "scoring";
}

}  // namespace

Trainer::Trainer(const Config& config, const ProcessMesh& mesh, const TrainerOptions& options)
    : config_(config),
      mesh_(mesh),
      options_(with_threads_set(options)),
      log_(mesh.world().size() == 1 ? Log::alone : mesh.world().rank(), run_log(config.run.dir)),
      outputs_(config_, mesh.world()),
      data_(config_, mesh.world()),
      learning_rate_(config_.optimizer, config_.train.steps,
                     config_.train.global_batch * config_.model.context),
      arena_bytes_(training_arena_bytes(config_, mesh,
                                        {.device = options.device,
                                         .device_sharers = options.device_sharers,
                                         .threads = options.threads})),
      model_(config_, mesh, options.device),
      execution_({.device = options.device, .capacity = arena_bytes_}),
      trace_(config_, mesh, execution_.stream(), options.ledger),
      rank_reports_(config_, mesh, options.device),
      guard_(config_.train),
      samples_(config_, mesh_, data_.train(), model_) {
  execution_.timeline().set_listener([this](Phase phase) {
    if (options_.phase_begins) options_.phase_begins(phase);
    trace_.phase_begins(phase);
  });
  execution_.timeline().set_place_listener(options_.place_begins);
  log_start();
  checkpoints_.emplace(RunCheckpoints::Run{config_, mesh_, data_, outputs_, guard_}, model_,
                       execution_.stream(), options_.saves);
  position_ = checkpoints_->start();
  outputs_.open(options_.environment, position_.step, mesh_.world());
  evaluation_.emplace(
      RunEvaluation::Run{config_, mesh_, data_, model_, execution_.context(), outputs_, log_,
                         [this](std::string_view work) { begin_work(work); }},
      [this] { return asked_to_stop(); });
  product_rate_ =
      measure_product_rate(mesh_.world(),
                           {.extent = options_.rate_extent > 0 ? options_.rate_extent
                                                               : filling_extent(execution_.arena()),
                            .dtype = model_.parameters().dtype()},
                           execution_.context());
  outputs_.begin();
}

Trainer::~Trainer() = default;

void Trainer::log_start() {
  if (!first_rank()) return;
  if (!outputs_.warning().empty()) log_.warning(outputs_.warning());
  for (const std::string& line : data_.table()) log_.info(line);
  for (const std::string& line : data_.warnings()) log_.warning(line);
  if (learning_rate_.warmup_steps() > config_.train.steps)
    log_.warning(fmt::format(
        "optimizer.warmup = {} is longer than train.steps = {}: the run ends within its warm-up",
        config_.optimizer.warmup, config_.train.steps));
}

LossTerms Trainer::forward_backward() {
  {
    const Timeline::Scope phase(execution_.context().timeline, Phase::data);
    samples_.next(position_);
  }
  const auto counted = samples_.count(execution_.stream());
  return model_.forward_backward(
      [&](std::int64_t pass, const TokenRows& to) { samples_.fill(pass, to); },
      model_.shares().passes, execution_.context(), counted);
}

Trainer::Sums Trainer::sum_over_ranks(const LossTerms& losses) {
  // A sum for each request, so that the largest of all ranks can be told from it.
  constexpr std::size_t first_request = 6;
  std::array<double, first_request + 5> values{losses.cross_entropy,
                                               losses.router.balance,
                                               losses.router.z,
                                               checkpoints_->failed() ? 1.0 : 0.0,
                                               first_rank() && save_is_due() ? 1.0 : 0.0,
                                               outputs_.failed() ? 1.0 : 0.0};
  if (options_.stop_requested)
    values[first_request + static_cast<std::size_t>(options_.stop_requested())] = 1.0;
  mesh_.world().check();  // before what GPUs exchanged is believed
  mesh_.world().all_reduce(Tensor(values.data(), {values.size()}, DType::f64, Device::cpu()),
                           Reduction::sum, execution_.stream());
  Sums sums{
      .losses = {.cross_entropy = values[0], .router = {.balance = values[1], .z = values[2]}},
      .save_failed = values[3] > 0.0,
      .save_due = values[4] > 0.0,
      .output_failed = values[5] > 0.0};
  for (std::size_t request = 1; first_request + request < values.size(); ++request)
    if (values[first_request + request] > 0.0) sums.stop = static_cast<StopRequest>(request);
  return sums;
}

/// The largest of all ranks' requests. Collective.
StopRequest Trainer::agreed_stop() {
  double request = options_.stop_requested ? static_cast<double>(options_.stop_requested()) : 0.0;
  mesh_.world().all_reduce(Tensor(&request, {1}, DType::f64, Device::cpu()), Reduction::max,
                           execution_.stream());
  return static_cast<StopRequest>(request);
}

/// Asked within long work of a step. Collective.
bool Trainer::asked_to_stop() {
  stopped_by_ = agreed_stop();
  return stopped_by_ != StopRequest::none;
}

/// Whether checkpoint.every_seconds have passed, by this rank's clock.
bool Trainer::save_is_due() const {
  const double seconds = config_.checkpoint.every_seconds;
  return seconds > 0.0 && checkpoints_->seconds_since_save() >= seconds;
}

/// Where metrics cannot be written and checkpoint.on_error = stop: what was done is saved, where
/// that is possible still. Collective; throws OutputFileError, on every rank, then.
void Trainer::end_if_output_failed(const Sums& sums) {
  if (!sums.output_failed) return;
  try {
    checkpoints_->save_last(position_);
  } catch (const OutputFileError& error) {
    if (first_rank()) log_.error(error.what());
  }
  throw_alike(outputs_.take_failure(), mesh_.world());
}

/// What becomes of the step, told where it is not applied as it is. Collective.
StepVerdict Trainer::judge(const StepMetrics& metrics) {
  const StepVerdict verdict =
      guard_.judge(metrics.loss + metrics.aux_loss + metrics.z_loss, metrics.grad_norm);
  const bool first_bad =
      verdict.kind == StepVerdict::Kind::not_finite && guard_.not_finite_in_a_row() == 1;
  const std::int64_t every = config_.train.check_replicas;
  if (every > 0 && (first_bad || metrics.step % every == 0))
    check_replicas(model_.parameters(), model_.model(), mesh_, execution_.stream());
  if (first_bad)
    where_not_finite_ = name_not_finite(
        model_, mesh_, [&](std::int64_t pass, const TokenRows& to) { samples_.fill(pass, to); },
        config_.data.keeps_documents(), execution_.context());
  if (verdict.kind == StepVerdict::Kind::not_finite) {
    tell_not_finite(metrics);
  } else if (verdict.kind != StepVerdict::Kind::apply && first_rank()) {
    log_.warning(fmt::format(
        "step {}: gradient norm {:.4g} lies {:.1f} standard deviations above the mean of the last "
        "{} "
        "(train.spike_z = {}): {}",
        metrics.step, metrics.grad_norm, *verdict.z_score, config_.train.spike_window,
        config_.train.spike_z,
        verdict.skipped() ? std::string("the step is skipped")
                          : fmt::format("clipped to that mean, {:.4g}", verdict.clip_to)));
  }
  return verdict;
}

/// Throws NotFiniteError where there were too many such steps.
void Trainer::tell_not_finite(const StepMetrics& metrics) {
  const std::int64_t row = guard_.not_finite_in_a_row(), most = config_.train.max_skipped;
  const std::string what = fmt::format(
      "step {} is not applied: loss {}, load-balance loss {}, router z-loss {}, gradient norm {} "
      "must be finite",
      metrics.step, metrics.loss, metrics.aux_loss, metrics.z_loss, metrics.grad_norm);
  if (row < most) {
    if (first_rank())
      log_.warning(fmt::format("{} (train.max_skipped: {} of {} in a row){}", what, row, most,
                               row == 1 ? "; " + where_not_finite_ : ""));
    return;
  }
  checkpoints_->finish();
  const std::int64_t newest = checkpoints_->newest();
  throw NotFiniteError(
      fmt::format("{}, which makes {} in a row (train.max_skipped = {}); at the first of them{}: "
                  "{}; the newest "
                  "checkpoint is of step {}: resume from it, or from one before, with a lower "
                  "optimizer.lr or a "
                  "smaller optimizer.clip",
                  what, row, most, where_not_finite_.empty() ? " (before this start)" : "",
                  where_not_finite_.empty() ? "see the log" : where_not_finite_,
                  newest < 0 ? std::string("(none)") : std::to_string(newest)));
}

/// One optimizer step; notes what a rank was asked for meanwhile.
void Trainer::step(StepMetrics& metrics) {
  const auto begin = Clock::now();
  Timeline& timeline = execution_.timeline();
  timeline.reset();
  metrics.step = position_.step + 1;
  if (options_.step_begins) options_.step_begins(metrics.step);
  trace_.step_begins(metrics.step);
  const Sums sums = sum_over_ranks(forward_backward());
  if (sums.save_failed) checkpoints_->finish();
  end_if_output_failed(sums);
  metrics.grad_norm = model_.gradient_norm(execution_.context());
  metrics.loss = sums.losses.cross_entropy;
  metrics.aux_loss = sums.losses.router.balance;
  metrics.z_loss = sums.losses.router.z;
  const StepVerdict verdict = judge(metrics);
  metrics.lr = learning_rate_.at(metrics.step);
  if (!verdict.skipped())
    model_.update(
        metrics.grad_norm, metrics.lr, execution_.context(),
        verdict.kind == StepVerdict::Kind::clip ? std::optional(verdict.clip_to) : std::nullopt);
  metrics.skipped_steps = guard_.skipped();
  metrics.z_score = verdict.z_score;
  metrics.routing = model_.model().finish_step(execution_.context(), !verdict.skipped());
  tell_of_rounds(metrics);
  execution_.stream().synchronize();

  const std::int64_t step_tokens =
      config_.train.global_batch * config_.model.context - samples_.padding();
  ++position_.step;
  position_.tokens += step_tokens;
  position_.next_sample += config_.train.global_batch;
  metrics.tokens = position_.tokens;
  // The last phase ends here, so that the phases add up to the step.
  { const Timeline::Scope phase(timeline, Phase::other); }
  for (std::size_t i = 0; i < metrics.seconds.size(); ++i)
    metrics.seconds[i] = timeline.seconds(static_cast<Phase>(i));
  metrics.tokens_per_second = static_cast<double>(step_tokens) / seconds_since(begin);
  metrics.mfu = metrics.tokens_per_second * training_flops_per_token(config_.model) / product_rate_;
  rank_reports_.step_done(metrics, model_.model(), execution_.stream());
  trace_.step_ends(metrics.step);
  stopped_by_ = sums.stop;
  save_due_ = sums.save_due;
}

void Trainer::tell_of_rounds(const StepMetrics& metrics) {
  std::int64_t rounds = 0;
  for (const RoutingStatistics& layer : metrics.routing) rounds += layer.extra_rounds;
  if (rounds == 0 || std::exchange(told_of_rounds_, true)) return;
  log_.info(fmt::format(
      "step {}: ranks had more rows for their experts than moe.row_budget = {} times an even "
      "share, and worked them off in {} further round{}: slower, but the same results; later steps "
      "are counted as extra_rounds in metrics.jsonl",
      metrics.step, config_.model.moe.row_budget, rounds, rounds == 1 ? "" : "s"));
}

void Trainer::begin_work(std::string_view work) {
  if (options_.work_begins) options_.work_begins(work);
}

/// Begins a checkpoint; of the `last` one of this start returns when it is committed.
void Trainer::save(bool last) {
  begin_work("saving");
  last ? checkpoints_->save_last(position_) : checkpoints_->save(position_);
}

void Trainer::evaluate(const Evaluations& wanted) {
  evaluation_left_ = !evaluation_->make(wanted, stopped_by_ != StopRequest::none, position_.step,
                                        position_.tokens);
}

/// What is to be evaluated before the first step: of a run that goes on in its own directory what
/// was left of its last step. Collective.
Evaluations Trainer::made_up_for() const {
  if (position_.step == 0 || checkpoints_->newest() != position_.step) return {};
  return evaluation_->missing(position_.step);
}

RunEnd Trainer::run() {
  const TrainConfig& train = config_.train;
  const std::int64_t& done = position_.step;
  const std::int64_t last =
      train.stop_after > 0 ? std::min(train.steps, done + train.stop_after) : train.steps;
  const Evaluations missing = made_up_for();
  if (done >= train.steps && !missing.any())
    log_.info(fmt::format("nothing to do: {} of {} steps are done", done, train.steps));
  outputs_.show_progress(options_.progress, done + 1, last);
  trace_.run_begins(done + 1, last);
  stopped_by_ = agreed_stop();
  if (missing.any()) {
    log_.info(fmt::format("made first: the {} of step {}, due and not in metrics.jsonl",
                          names_of(missing), done));
    evaluate(missing);
    begin_work("");
  }
  while (done < last && stopped_by_ == StopRequest::none) {
    const auto begin = Clock::now();
    StepMetrics metrics;
    step(metrics);
    checkpoints_->step_done(done);
    save_put_off_ |=
        save_due_ || (config_.checkpoint.every > 0 && done % config_.checkpoint.every == 0);
    // What a step that is not finite leaves is not worth an older checkpoint.
    const bool save_due = save_put_off_ && guard_.not_finite_in_a_row() == 0;
    if (save_due) save_put_off_ = false;
    const bool ends = stopped_by_ != StopRequest::none || done == last;
    metrics.checkpoint_seconds = checkpoints_->take_seconds();
    outputs_.report(metrics);
    // Before evaluations, which may take long: a process that is killed in them has lost nothing.
    if (ends || save_due) save(ends);
    evaluate(evaluation_->due(done));
    if (stopped_by_ != StopRequest::none && !ends) save(true);
    begin_work("");
    outputs_.step_done(metrics, seconds_since(begin));
    if (const auto committed = checkpoints_->take_committed()) outputs_.committed(*committed);
  }
  trace_.run_ends();
  throw_alike(outputs_.take_failure(), mesh_.world());
  checkpoints_->shutdown();
  if (const auto committed = checkpoints_->take_committed()) outputs_.committed(*committed);
  recent_loss_ = outputs_.recent_loss();
  outputs_.close_progress();
  if (done >= train.steps && !evaluation_left_) return RunEnd::finished;
  return stopped_by_ != StopRequest::none ? RunEnd::preempted : RunEnd::stopped;
}

}  // namespace polymoe
