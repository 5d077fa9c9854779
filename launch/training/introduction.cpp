// SPDX-License-Identifier: Apache-2.0
#include "launch/training/introduction.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation/activation.h"
#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/config/values.h"
#include "launch/step/memory_plan.h"
#include "moe/model_config.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/device.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

std::string line(const char* name, const std::string& value) {
  return fmt::format("{:<12}{}", name, value);
}

std::string counted(std::int64_t count, const char* thing) {
  return fmt::format("{} {}{}", with_separators(count), thing, count == 1 ? "" : "s");
}

std::string model_text(const Config& config, const MemoryPlan& plan) {
  const ModelConfig& model = config.model;
  std::string text = short_count(static_cast<double>(plan.total_parameters)) + " parameters";
  if (model.moe.experts > 0)
    text += fmt::format(", {} active", short_count(static_cast<double>(plan.active_parameters)));
  text += fmt::format("; {}, hidden {}, {}, {}", counted(model.layers, "layer"), model.hidden,
                      counted(model.heads, "head"), name_of(model.activation.kind));
  if (model.moe.experts > 0)
    text += fmt::format(", {} of {}, {} a token", counted(model.moe.experts, "expert"),
                        model.expert_width(), model.moe.top_k);
  return text;
}

std::string layout_text(const RunIntroduction& run) {
  std::string text = counted(run.layout.ranks, "rank");
  if (run.layout.backend == DeviceType::cpu)
    text += fmt::format(" of {}", counted(run.layout.threads, "thread"));
  if (run.config.model.moe.experts > 0)
    text += run.config.parallel.expert == 1
                ? ", each with all experts"
                : fmt::format(", {} share out the experts", run.config.parallel.expert);
  if (ProcessMesh::goes_by_node(run.config.parallel.expert, run.layout.node_ranks))
    text += fmt::format(", tokens go by nodes of {}", run.layout.node_ranks);
  return text + ", " + run.precision;
}

std::string batch_text(const Config& config, int ranks) {
  const StepShares shares = shares_of(config, ranks);
  const std::int64_t least = shares.of(shares.passes - 1, ranks - 1).count;
  return fmt::format("{} of {} = {} tokens a step: {}{} a rank and pass{}, {}",
                     counted(config.train.global_batch, "sequence"), config.model.context,
                     with_separators(config.train.global_batch * config.model.context),
                     shares.even() ? "" : fmt::format("{} or ", least), shares.largest(),
                     config.train.micro_batch == 0 ? " (automatic)" : "",
                     shares.passes == 1 ? "1 pass" : fmt::format("{} passes", shares.passes));
}

std::string length_text(const RunIntroduction& run) {
  const TrainConfig& train = run.config.train;
  const double tokens = static_cast<double>(train.steps * train.global_batch) *
                        static_cast<double>(run.config.model.context);
  std::string text =
      fmt::format("{}, {} tokens", counted(train.steps, "step"), short_count(tokens));
  if (run.steps_done > 0) text += fmt::format("; {} done", counted(run.steps_done, "step"));
  if (train.stop_after > 0)
    text += fmt::format("; stops after {}", counted(train.stop_after, "step"));
  return text;
}

std::string memory_text(const RunIntroduction& run) {
  const auto gib = [](std::size_t bytes) {
    return static_cast<double>(bytes) / (1024.0 * 1024.0 * 1024.0);
  };
  const bool on_gpu = run.layout.backend == DeviceType::cuda;
  const std::size_t planned = on_gpu ? run.plan.device_total() : run.plan.rank_total();
  return fmt::format("{:.2f} GiB planned of {:.2f} a rank may take{}", gib(planned),
                     gib(run.memory), on_gpu ? " of its GPU" : "");
}

}  // namespace

std::vector<std::string> introduction(const RunIntroduction& run) {
  std::vector<std::string> lines = {
      line("model", model_text(run.config, run.plan)),
      line("device", run.device),
      line("ranks", layout_text(run)),
      line("batch", batch_text(run.config, run.layout.ranks)),
      line("length", length_text(run)),
      line("memory", memory_text(run)),
  };
  lines.push_back(line("tokenizer", run.tokenizer.empty()
                                        ? "none beside the data: `generate` will ask for one"
                                        : run.tokenizer));
  lines.push_back(line("directory", run.config.run.dir));
  if (!run.resumed_from.empty()) lines.push_back(line("goes on", "from " + run.resumed_from));
  return lines;
}

std::vector<std::string> summary(const RunSummary& run) {
  std::vector<std::string> lines;
  if (run.steps_here > 0) {
    std::string losses = fmt::format("{:.4f} over the last steps", run.loss);
    if (run.valid_loss)
      losses += fmt::format("; validation {:.4f}, perplexity {:.2f}", *run.valid_loss,
                            std::exp(*run.valid_loss));
    lines.push_back(line("loss", losses));
    lines.push_back(
        line("time", fmt::format("{} for {}, {} tokens/s all in all", clock_text(run.seconds),
                                 counted(run.steps_here, "step"),
                                 short_count(static_cast<double>(run.tokens_here) /
                                             std::max(run.seconds, 1e-9)))));
  }
  lines.push_back(line(
      "tokens", fmt::format("{} since the beginning, step {} of {}", with_separators(run.tokens),
                            with_separators(run.steps_done), with_separators(run.steps))));
  lines.push_back(line("files", fmt::format("{0}/checkpoints, {0}/metrics.jsonl, {0}/tensorboard, "
                                            "{0}/config.ini",
                                            run.directory)));
  if (run.steps_done < run.steps) {
    lines.push_back(line("go on", "the same command again"));
    return lines;
  }
  std::vector<std::string> next;
  if (run.has_tokenizer)
    next.push_back(fmt::format("polymoe generate --checkpoint {} --prompt TEXT", run.directory));
  if (!run.tokens_to_evaluate.empty())
    next.push_back(fmt::format("polymoe eval --checkpoint {} --tokens {}", run.directory,
                               run.tokens_to_evaluate));
  next.push_back(fmt::format("polymoe checkpoint export-hf {} OUT", run.directory));
  next.push_back("more steps: the same command with a larger --train.steps");
  for (const std::string& command : next)
    lines.push_back(line(&command == &next.front() ? "next" : "", command));
  return lines;
}

}  // namespace polymoe
