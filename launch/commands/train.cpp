// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "launch/commands/command.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/environment.h"
#include "launch/machine/exit_code.h"
#include "launch/machine/node_threads.h"
#include "launch/machine/signals.h"
#include "launch/training/run_directory.h"
#include "launch/training/trainer.h"
#include "runtime/error.h"
#include "runtime/log.h"
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

int run(CommandContext& context, const std::vector<std::string>& args) {
  const CommandLine line = train_command().parse(args);
  const Config config = read_config(line.value("config"), line.overrides());
  refuse_violations("configuration", training_violations(config, context.ranks));
  const NodeRank node{.rank = context.rank_on_node, .ranks = context.ranks_on_node};
  const Device device = choose_device(config.run, node);
  const int share = threads_per_rank(*context.world);
  const int threads = allowed_threads(config.run.threads > 0 ? config.run.threads : share);
  context.log_file = run_log(config.run.dir);
  Log log(context.rank, context.log_file);
  if (config.run.threads > threads)
    log.info("run.threads = " + std::to_string(config.run.threads) + ": OMP_THREAD_LIMIT allows " +
             std::to_string(threads));
  if (context.by_mpirun && config.run.threads == 0) {
    const std::string hint =
        binding_hint(cores_of_process(0), cores_of_process(getppid()), node.ranks);
    if (!hint.empty() && context.rank == 0) log.warning(hint);
  }

  const std::string transport = serve_device(context, device, config.run.share_gpus);

  ProcessMesh mesh(std::move(context.world), config.parallel.expert);
  Trainer trainer(config, mesh,
                  {.device = device,
                   .device_sharers = device_sharers(device, node),
                   .threads = threads,
                   .stop_requested = stop_request,
                   .step_begins = [&](std::int64_t step) { context.step = step; },
                   .progress = progress_on_stdout(),
                   .saves = context.saves,
                   .environment = environment_text(config, {.ranks = context.ranks,
                                                            .ranks_on_node = context.ranks_on_node,
                                                            .threads_per_rank = threads,
                                                            .device = device,
                                                            .transport = transport})});
  const RunEnd end = trainer.run();
  mesh.shutdown();
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
  return exit_done;
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
