// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/config.h"
#include "launch/data/run_tokenizer.h"
#include "launch/explaining/explanation.h"
#include "launch/explaining/monitor.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/environment.h"
#include "launch/machine/exit_code.h"
#include "launch/machine/expert_nodes.h"
#include "launch/machine/node_threads.h"
#include "launch/machine/signals.h"
#include "launch/step/memory_plan.h"
#include "launch/step/micro_batch.h"
#include "launch/training/introduction.h"
#include "launch/training/run_directory.h"
#include "launch/training/same_on_ranks.h"
#include "launch/training/trainer.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/ledger.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/log.h"
#include "runtime/progress.h"
#include "runtime/system.h"
#include "runtime/timeline.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

int exit_code_after(StopRequest request) {
  switch (request) {
    case StopRequest::none:
      break;
    case StopRequest::preempt:
      return exit_preempted;
    case StopRequest::hang_up:
      return exit_hung_up;
    case StopRequest::interrupt:
      return exit_interrupted;
    case StopRequest::terminate:
      return exit_terminated;
  }
  return exit_done;
}

/// The median of the last steps' times.
class StepPace {
 public:
  /// Returns the median so far; 0 before two steps are known.
  double step_begins() {
    const auto now = std::chrono::steady_clock::now();
    if (steps_++ > 0) seconds_[(steps_ - 2) % seconds_.size()] = (now - last_).count() * 1e-9;
    last_ = now;
    const std::size_t known = std::min(steps_ - 1, seconds_.size());
    if (known < 2) return 0.0;
    std::array<double, 33> sorted = seconds_;
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(known / 2);
    std::nth_element(sorted.begin(), middle, sorted.begin() + static_cast<std::ptrdiff_t>(known));
    return *middle;
  }

 private:
  std::array<double, 33> seconds_{};
  std::size_t steps_ = 0;
  std::chrono::steady_clock::time_point last_;
};

void keep_ledger(const CommandContext& context, const std::filesystem::path& file, Log& log) {
  try {
    context.ledger->keep_in(file);
  } catch (const OutputFileError& error) {
    log.warning(std::string(error.what()) + "; going on without a ledger for polymoe explain");
  }
}

/// From here on what this rank does can be read by `polymoe explain`, unless another run is in the
/// directory, which has the say there until it is known who holds the lock.
void begin_ledger(const CommandContext& context, const std::string& run_directory, Log& log) {
  constexpr std::size_t kept_ended_runs = 32;  // of this user on this node, for polymoe explain
  if (context.rank_on_node == 0) remove_old_ledgers(ledger_directories(), kept_ended_runs);
  const std::filesystem::path file = ledger_directory(run_directory) / ledger_name(context.rank);
  if (ledger_is_held(file)) return;
  keep_ledger(context, file, log);
  std::error_code error;
  if (context.rank == 0)
    std::filesystem::remove_all(std::filesystem::path(run_directory) / "ledger", error);
}

/// The run directory is locked: what others left there is nobody's.
void own_ledger_directory(const CommandContext& context, const std::string& run_directory,
                          Log& log) {
  const std::filesystem::path directory = ledger_directory(run_directory);
  const std::filesystem::path file = directory / ledger_name(context.rank);
  if (!context.ledger->file_in_place()) keep_ledger(context, file, log);
  std::error_code error;
  if (context.rank_on_node == 0)
    for (const auto& entry : std::filesystem::directory_iterator(directory, error))
      if (entry.path().filename() > ledger_name(context.ranks - 1))
        std::filesystem::remove(entry.path(), error);
}

/// On the terminal, and in the run's log. A run whose output nobody reads any more goes on.
void show(const std::vector<std::string>& lines, const std::filesystem::path& log) {
  for (const std::string& line : lines) {
    std::fprintf(stdout, "%s\n", line.c_str());
    append_dated_line(log, line);
  }
  std::fflush(stdout);
}

/// Adds the tokenizer, which the run has taken over by now, and shows it all.
void introduce(RunIntroduction& run) {
  run.tokenizer = remembered_tokenizer(run.config.run.dir).value_or("");
  show(introduction(run), run_log(run.config.run.dir));
}

/// What to say of a run whose last steps were not applied, or whose model gave answers that are not
/// finite when it was scored last; empty where all was finite.
std::string not_finite_end(const Trainer& trainer) {
  const std::int64_t row = trainer.not_finite_at_end(), last = trainer.steps_done();
  if (row == 0 && !trainer.scoring_not_finite().empty())
    return fmt::format("the model of step {} has values that are not finite: {}", last,
                       trainer.scoring_not_finite());
  if (row == 0) return "";
  const std::string& where = trainer.where_not_finite();
  return fmt::format(
      "the last {} not applied, because loss or gradient was not finite, and the checkpoint of "
      "step "
      "{} holds the weights of step {}{}",
      row == 1 ? fmt::format("step, {}, was", last)
               : fmt::format("{} steps, {} to {}, were", row, last - row + 1, last),
      last, last - row, where.empty() ? "" : "; at the first of them: " + where);
}

/// Says what the ledgers know where the others did not answer in time, and starts the alarm.
void give_up_waiting(const CommandContext& context, const RunConfig& run, Log& log) {
  const std::string why = last_explanation(*context.ledger, run.dir);
  if (!why.empty()) {
    log.error(why);
    if (!run.alarm.empty()) start_alarm(run.alarm, why, run.dir);
  }
  context.ledger->set_doing(ending_by_error);
}

int train(CommandContext& context, Config config, Log& log, std::optional<RunMonitor>& monitor) {
  const auto turns_to = [&](const std::string& what) {
    context.ledger->set_doing(what);
    if (context.observer != nullptr) context.observer->turns_to(context.step, what);
  };
  turns_to("starting");
  const NodeRank node{.rank = context.rank_on_node, .ranks = context.ranks_on_node};
  const Device device = choose_device(config.run, node);
  context.world = context.make_world(config.run.timeout);
  if (context.ranks > 1) check_same_as_first(facts_of_rank(config, device), *context.world);
  const int share = threads_per_rank(*context.world);
  const int threads = allowed_threads(config.run.threads > 0 ? config.run.threads : share);
  if (config.run.threads > threads)
    log.info("run.threads = " + std::to_string(config.run.threads) + ": OMP_THREAD_LIMIT allows " +
             std::to_string(threads));
  if (context.by_mpirun && config.run.threads == 0) {
    const std::string hint =
        binding_hint(cores_of_process(0), cores_of_process(getppid()), node.ranks);
    if (!hint.empty() && context.rank == 0) log.warning(hint);
  }

  // All ranks choose alike, by the one that has least.
  const bool on_gpu = device.type == DeviceType::cuda;
  const auto memory = static_cast<std::size_t>(
      least_of_ranks(static_cast<std::int64_t>(memory_of_rank(
                         device, on_gpu ? device_sharers(device, node) : context.ranks_on_node)),
                     *context.world));
  const PlannedLayout layout{.ranks = context.ranks,
                             .threads = threads,
                             .backend = device.type,
                             .node_ranks = node_ranks_of(config.parallel, *context.world)};
  choose_micro_batch(config, layout, memory);
  const MemoryPlan plan = plan_memory(config, layout);
  if (!on_gpu) require_host_memory(plan, memory);

  const std::string transport =
      serve_device(context, device, config.run.share_gpus, config.run.timeout);

  std::optional<ProcessMesh> split;
  context.watched("MPI_Comm_split", config.run.timeout, [&] {
    split.emplace(std::move(context.world), config.parallel.expert, layout.node_ranks);
  });
  ProcessMesh& mesh = *split;
  StepPace pace;
  std::optional<Elapsed> preparing(std::in_place,
                                   context.rank == 0 ? progress_on_stdout() : ProgressOutput{},
                                   "preparing data, checkpoint and kernels");
  std::string work;  // between steps
  context.ledger->set_device(name_of(device));
  turns_to("preparing");
  Trainer trainer(
      config, mesh,
      {.device = device,
       .device_sharers = device_sharers(device, node),
       .threads = threads,
       .stop_requested = stop_request,
       .step_begins =
           [&](std::int64_t step) {
             context.step = step;
             context.ledger->begin_step(step);
             context.ledger->set_median_step_seconds(pace.step_begins());
           },
       .phase_begins =
           [&](Phase phase) {
             turns_to(work.empty() ? std::string(name_of(phase)) : work + ", " + name_of(phase));
           },
       .place_begins =
           [&](const ModelPlace& place) {
             context.ledger->set_layer(place.layer, place.backward, place.transfer);
           },
       .work_begins =
           [&](std::string_view begun) {
             work = begun;
             turns_to(work.empty() ? "between steps" : work);
           },
       .progress = progress_on_stdout(),
       .saves = context.observer,
       .ledger = context.ledger.get(),
       .environment = environment_text(config, {.ranks = context.ranks,
                                                .ranks_on_node = context.ranks_on_node,
                                                .threads_per_rank = threads,
                                                .device = device,
                                                .transport = transport})});
  preparing.reset();
  RunIntroduction described{
      .config = config,
      .layout = layout,
      .plan = plan,
      .memory = memory,
      .device = on_gpu ? cuda::describe_device(device.index) : processor_name(),
      .precision = name_of(compute_dtype(config.train.precision, device.type)),
      .steps_done = trainer.steps_done(),
      .resumed_from = trainer.resumed_from()};
  if (context.rank == 0) introduce(described);
  const auto begin = std::chrono::steady_clock::now();
  own_ledger_directory(context, config.run.dir, log);
  const RunEnd end = trainer.run();
  monitor.reset();
  mesh.shutdown();
  context.ledger->forget_file();
  if (context.rank == 0) {
    show(summary(
             {.directory = config.run.dir,
              .steps_done = trainer.steps_done(),
              .steps = config.train.steps,
              .tokens = trainer.tokens_done(),
              .seconds =
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
              .steps_here = trainer.steps_done() - described.steps_done,
              .tokens_here = (trainer.steps_done() - described.steps_done) *
                             config.train.global_batch * config.model.context,
              .loss = trainer.recent_loss(),
              .valid_loss = trainer.valid_loss(),
              .tokens_to_evaluate = config.data.valid.empty() ? "" : config.data.valid.front().path,
              .has_tokenizer = !described.tokenizer.empty()}),
         context.log_file);
  }
  const std::string not_finite = not_finite_end(trainer);
  if (!not_finite.empty() && context.rank == 0) {
    if (end == RunEnd::finished)
      log.error(not_finite + "; the run is complete and did not end well: exit code 86");
    else
      log.warning(not_finite);
  }
  switch (end) {
    case RunEnd::preempted:
      log.info(std::string("stopped by ") + name_of(trainer.stopped_by()) + " after step " +
               std::to_string(trainer.steps_done()) +
               (trainer.steps_done() > 0 ? ", checkpoint committed" : ": nothing to save yet") +
               "; the same command goes on from there");
      return exit_code_after(trainer.stopped_by());
    case RunEnd::stopped:
      log.info("stopped by train.stop_after after step " + std::to_string(trainer.steps_done()));
      return exit_done;
    case RunEnd::finished:
      break;
  }
  return not_finite.empty() ? exit_done : exit_not_finite;
}

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = train_command().parse(args);
  const Config config = read_config(line.value("config"), line.overrides());
  refuse_violations("configuration", training_violations(config, context.ranks));
  context.log_file = run_log(config.run.dir);
  Log log(context.ranks == 1 ? Log::alone : context.rank, context.log_file);
  begin_ledger(context, config.run.dir, log);
  context.gives_up = [&] { give_up_waiting(context, config.run, log); };
  std::optional<RunMonitor> monitor(
      std::in_place, *context.ledger, log,
      RunMonitor::Options{.run_directory = config.run.dir,
                          .first_on_node = context.rank_on_node == 0,
                          .ranks_on_node = context.ranks_on_node,
                          .alarm = config.run.alarm,
                          .start_patience_seconds = std::max(10.0, config.run.timeout / 10)});
  try {
    return train(context, config, log, monitor);
  } catch (const CommunicationError&) {
    give_up_waiting(context, config.run, log);
    throw;
  } catch (...) {
    context.ledger->set_doing(ending_by_error);
    throw;
  }
}

}  // namespace

const Command& train_command() {
  static const Command command = {
      .name = "train",
      .summary = "Trains a model, or goes on with a run",
      .arguments = "",
      .options = {{.name = "config",
                   .value = "FILE",
                   .help = "the configuration; keys on the command line win over it"}},
      .overrides = true,
      .ranks = true,
      .stops_by_itself = true,
      .run = run};
  return command;
}

}  // namespace polymoe
