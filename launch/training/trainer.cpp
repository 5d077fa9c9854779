// SPDX-License-Identifier: Apache-2.0
#include "launch/training/trainer.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <ctime>
#include <utility>

#include "launch/config/options.h"
#include "launch/data/run_tokenizer.h"
#include "launch/machine/machine_rates.h"
#include "launch/step/evaluation.h"
#include "launch/step/memory_plan.h"
#include "parallel/communication/agreement.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

Config checked(const Config& config, int ranks) {
  const auto lines = training_violations(config, ranks);
  if (!lines.empty()) throw InvalidArgument(list_violations("configuration", lines));
  return config;
}

/// Null on all ranks but the first.
std::unique_ptr<RunDirectory> open_directory(const Config& config, Communicator& world) {
  std::unique_ptr<RunDirectory> directory;
  on_first_rank(world, [&] { directory = std::make_unique<RunDirectory>(config.run.dir); });
  return directory;
}

/// What the step's arena may take. On a CPU an upper bound that costs nothing; of a GPU the plan's
/// need, and where rows come from other ranks all that is left, since nothing bounds their number.
std::size_t arena_bytes(const Config& config, Communicator& world, const TrainerOptions& options) {
  if (options.device.type != DeviceType::cuda)
    return static_cast<std::size_t>(usable_memory_bytes());
  const MemoryPlan plan = plan_memory(
      config, {.ranks = world.size(), .threads = options.threads, .backend = DeviceType::cuda});
  const std::size_t free = cuda::memory_info(options.device.index).free;
  world.barrier();  // nobody takes any before all have looked
  return gpu_arena_bytes(config, plan, free / static_cast<std::size_t>(options.device_sharers));
}

/// A square product that keeps the device busy, and fits the arena.
std::int64_t filling_extent(const Arena& arena) {
  std::int64_t extent = arena.device().type == DeviceType::cuda ? 8192 : 1024;
  while (static_cast<std::size_t>(3 * extent * extent) * size_of(DType::f32) > arena.capacity())
    extent /= 2;
  return extent;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

Trainer::Trainer(const Config& config, const ProcessMesh& mesh, const TrainerOptions& options)
    : config_(checked(config, mesh.world().size())),
      mesh_(mesh),
      options_(options),
      log_(mesh.world().rank(), run_log(config.run.dir)),
      directory_(open_directory(config_, mesh.world())),
      data_(config_, mesh.world()),
      learning_rate_(config_.optimizer, config_.train.steps,
                     config_.train.global_batch * config_.model.context),
      stream_(options.device),
      arena_bytes_(arena_bytes(config_, mesh.world(), options)),
      model_(config_, mesh, options.device),
      arena_({.device = options.device, .capacity = arena_bytes_}) {
  omp_set_num_threads(options_.threads);
  if (directory_ && !directory_->warning().empty()) log_.warning(directory_->warning());
  if (first_rank() && learning_rate_.warmup_steps() > config_.train.steps)
    log_.warning(fmt::format(
        "optimizer.warmup = {} is longer than train.steps = {}: the run ends within its warm-up",
        config_.optimizer.warmup, config_.train.steps));
  start();
  if (first_rank()) {
    for (const std::string& line : data_.table()) log_.info(line);
    for (const std::string& line : data_.warnings()) log_.warning(line);
  }
  saver_ = std::make_unique<CheckpointSaver>(
      CheckpointSaver::Options{.root = fs::path(config_.run.dir) / "checkpoints",
                               .keep = config_.checkpoint.keep,
                               .staging_bytes = staging_bytes(config_, pieces()),
                               .observer = options_.saves},
      mesh_.world().split(0));
  open_outputs();
  product_rate_ = measure_product_rate(
      mesh_.world(),
      {.extent = options_.rate_extent > 0 ? options_.rate_extent : filling_extent(arena_),
       .dtype = model_.parameters().dtype()},
      context_);
}

Trainer::~Trainer() = default;

void Trainer::start() {
  const StartPoint chosen = choose_start(config_.checkpoint, config_.run.dir, mesh_.world());
  if (first_rank())
    for (const std::string& note : chosen.notes) log_.warning(note);
  if (chosen.checkpoint) {
    load(*chosen.checkpoint);
  } else {
    model_.optimizer().initialize(config_.train.seed, stream_);
  }
}

void Trainer::load(const CheckpointReader& reader) {
  const fs::path& checkpoint = reader.directory();
  const CheckpointInfo& info = reader.info();
  check_same_model(config_, info, checkpoint);
  state_ = TrainingState::from_text(info.state, checkpoint.string());
  std::vector<TensorPiece> wanted = model_.optimizer().pieces_to_load(state_.moments);
  for (TensorPiece& piece : model_.model().router_bias_pieces()) wanted.push_back(std::move(piece));
  reader.read(wanted, stream_);
  step_ = info.step;
  tokens_ = info.tokens;
  model_.optimizer().set_steps_done(step_);
  if (fs::weakly_canonical(checkpoint.parent_path()) ==
      fs::weakly_canonical(fs::path(config_.run.dir) / "checkpoints"))
    saved_ = found_ = step_;
  log_.info(fmt::format("resumed from {} (step {}, {} ranks, expert parallelism {})",
                        checkpoint.string(), info.step, info.ranks, info.expert_parallel));
  for (const std::string& line :
       data_.go_on(state_.data, state_.next_sample, tokens_, mesh_.world()))
    log_.info("data: " + line);
  // What is saved from here on has moments.
  if (!std::exchange(state_.moments, true))
    log_.info("that checkpoint holds no optimizer state: the moments start at zero");
  for (const std::string& line : changed_settings(config_, info, checkpoint))
    log_.info("changed since that checkpoint: " + line);
}

void Trainer::open_outputs() {
  on_first_rank(mesh_.world(), [&] {
    const fs::path& run = directory_->path();
    replace_file(run / "config.ini", to_ini(config_));
    replace_file(run / "environment.json", options_.environment);
    remember_tokenizer(config_.data.train, run);
    metrics_.emplace(run / "metrics.jsonl", step_);
    scalars_.emplace(run / "tensorboard", step_, wall_time());
  });
}

std::vector<TensorPiece> Trainer::pieces() {
  std::vector<TensorPiece> all = model_.optimizer().pieces_to_save();
  // The biases are the same on every rank; a checkpoint holds each element once.
  if (first_rank())
    for (TensorPiece& piece : model_.model().router_bias_pieces()) all.push_back(std::move(piece));
  return all;
}

void Trainer::save(bool last) {
  if (saved_ == step_) return;
  const auto begin = Timeline::Clock::now();
  finish_save();
  on_first_rank(mesh_.world(), [&] {
    directory_->check_in_place();
  });
  saved_ = step_;
  state_.data = data_.state(state_.next_sample);
  saver_->start({.step = step_,
                 .tokens = tokens_,
                 .ranks = mesh_.world().size(),
                 .expert_parallel = mesh_.expert_parallel(),
                 .config = to_ini(config_),
                 .state = state_.to_text()},
                pieces(), stream_);
  // A run must not end as if its last checkpoint were there.
  if (last) saver_->wait();
  checkpoint_seconds_ += std::chrono::duration<double>(Timeline::Clock::now() - begin).count();
}

/// Returns when no checkpoint is under way.
void Trainer::finish_save() {
  try {
    saver_->wait();
  } catch (const OutputFileError& error) {
    if (config_.checkpoint.on_error == SaveFailure::stop) throw;
    if (first_rank())
      log_.warning(fmt::format("{}; going on (checkpoint.on_error = continue)", error.what()));
  }
}

LossTerms Trainer::forward_backward() {
  const std::int64_t batch = config_.train.micro_batch;
  const std::int64_t length = config_.model.context;
  const std::int64_t ranks = mesh_.world().size();
  const auto fill = [&](std::int64_t pass, std::int32_t* tokens, std::int32_t* targets) {
    // The ranks' micro-batches follow one another, so that the samples which all ranks work on at
    // the same time are the same wherever ranks * micro_batch is.
    const std::int64_t first = state_.next_sample + (pass * ranks + mesh_.world().rank()) * batch;
    for (std::int64_t i = 0; i < batch; ++i)
      data_.train().sample(first + i, tokens + i * length, targets + i * length);
  };
  return model_.forward_backward(fill, model_.passes_per_step(), context_);
}

Trainer::Sums Trainer::sum_over_ranks(const LossTerms& losses) {
  // A sum for each request, so that the largest of all ranks can be told from it.
  constexpr std::size_t first_request = 4;
  std::array<double, first_request + 5> values{losses.cross_entropy, losses.balance, losses.z,
                                               saver_->failed() ? 1.0 : 0.0};
  if (options_.stop_requested)
    values[first_request + static_cast<std::size_t>(options_.stop_requested())] = 1.0;
  mesh_.world().check();  // before what GPUs exchanged is believed
  mesh_.world().all_reduce(Tensor(values.data(), {values.size()}, DType::f64, Device::cpu()),
                           Reduction::sum, stream_);
  Sums sums{.losses = {.cross_entropy = values[0], .balance = values[1], .z = values[2]},
            .save_failed = values[3] > 0.0};
  for (std::size_t request = 1; first_request + request < values.size(); ++request)
    if (values[first_request + request] > 0.0) sums.stop = static_cast<StopRequest>(request);
  return sums;
}

/// The largest of all ranks' requests. Collective.
StopRequest Trainer::agreed_stop() {
  double request = options_.stop_requested ? static_cast<double>(options_.stop_requested()) : 0.0;
  mesh_.world().all_reduce(Tensor(&request, {1}, DType::f64, Device::cpu()), Reduction::max,
                           stream_);
  return static_cast<StopRequest>(request);
}

/// One optimizer step; notes what a rank was asked for meanwhile.
void Trainer::step(StepMetrics& metrics) {
  const auto begin = Timeline::Clock::now();
  timeline_.reset();
  if (options_.step_begins) options_.step_begins(step_ + 1);
  const Sums sums = sum_over_ranks(forward_backward());
  if (sums.save_failed) finish_save();
  metrics.grad_norm = model_.gradient_norm(context_);
  metrics.step = step_ + 1;
  metrics.loss = sums.losses.cross_entropy;
  metrics.aux_loss = sums.losses.balance;
  metrics.z_loss = sums.losses.z;
  if (!std::isfinite(metrics.loss + metrics.aux_loss + metrics.z_loss) ||
      !std::isfinite(metrics.grad_norm)) {
    finish_save();
    const std::int64_t newest = std::max(found_, saver_->committed());
    throw NotFiniteError(fmt::format(
        "step {} is not applied: loss {}, load-balance loss {}, router z-loss {}, gradient norm {} "
        "must be finite; the newest checkpoint is of step {}: resume from it with a lower "
        "optimizer.lr or a smaller optimizer.clip",
        metrics.step, metrics.loss, metrics.aux_loss, metrics.z_loss, metrics.grad_norm,
        newest < 0 ? std::string("(none)") : std::to_string(newest)));
  }
  metrics.lr = learning_rate_.at(metrics.step);
  model_.update(metrics.grad_norm, metrics.lr, context_);
  metrics.routing = model_.model().finish_step(context_);
  stream_.synchronize();

  const std::int64_t step_tokens = config_.train.global_batch * config_.model.context;
  ++step_;
  tokens_ += step_tokens;
  state_.next_sample += config_.train.global_batch;
  metrics.tokens = tokens_;
  // The last phase ends here, so that the phases add up to the step.
  { const Timeline::Scope phase(timeline_, Phase::other); }
  for (std::size_t i = 0; i < metrics.seconds.size(); ++i)
    metrics.seconds[i] = timeline_.seconds(static_cast<Phase>(i));
  const double seconds = std::chrono::duration<double>(Timeline::Clock::now() - begin).count();
  metrics.tokens_per_second = static_cast<double>(step_tokens) / seconds;
  metrics.mfu = metrics.tokens_per_second * LanguageModel::training_flops_per_token(config_.model) /
                product_rate_;
  stopped_by_ = sums.stop;
}

double Trainer::validate() {
  const TrainConfig& train = config_.train;
  double loss = 0.0;
  for (std::size_t i = 0; i < data_.valid().size(); ++i) {
    const double share = data_.valid_shares()[i];
    const auto windows = static_cast<double>(train.valid_batches * train.global_batch) * share;
    const Evaluation result =
        evaluate(model_.model(), data_.valid()[i],
                 {.context = config_.model.context,
                  .per_batch = train.micro_batch,
                  .max_windows = static_cast<std::int64_t>(std::ceil(windows))},
                 mesh_, context_);
    loss += share * result.loss();
  }
  return loss;
}

void Trainer::report(StepMetrics& metrics) {
  if (!first_rank()) return;
  metrics_->write(metrics_row(metrics));
  scalars_->add_scalars(metrics.step, wall_time(), metrics_scalars(metrics));
}

RunEnd Trainer::run() {
  const TrainConfig& train = config_.train;
  const std::int64_t last =
      train.stop_after > 0 ? std::min(train.steps, step_ + train.stop_after) : train.steps;
  if (step_ >= train.steps)
    log_.info(fmt::format("nothing to do: {} of {} steps are done", step_, train.steps));
  TrainingProgress progress(first_rank() ? options_.progress : ProgressOutput(), step_ + 1, last);
  stopped_by_ = agreed_stop();
  while (step_ < last && stopped_by_ == StopRequest::none) {
    const auto begin = Timeline::Clock::now();
    StepMetrics metrics;
    step(metrics);
    const bool ends = stopped_by_ != StopRequest::none || step_ == last;
    if (!data_.valid().empty() && train.valid_every > 0 &&
        (step_ % train.valid_every == 0 || step_ == train.steps)) {
      metrics.valid_loss = validate();
      progress.note(fmt::format("step {}  validation loss {:.4f}  perplexity {:.2f}", step_,
                                *metrics.valid_loss, std::exp(*metrics.valid_loss)));
    }
    metrics.checkpoint_seconds = std::exchange(checkpoint_seconds_, 0.0);
    report(metrics);
    if (ends || (config_.checkpoint.every > 0 && step_ % config_.checkpoint.every == 0)) save(ends);
    const double seconds = std::chrono::duration<double>(Timeline::Clock::now() - begin).count();
    progress.step_done(metrics, seconds);
  }
  saver_->shutdown();
  if (step_ >= train.steps) return RunEnd::finished;
  return stopped_by_ != StopRequest::none ? RunEnd::preempted : RunEnd::stopped;
}

}  // namespace polymoe
