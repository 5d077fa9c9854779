// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <iostream>
#include <limits>

#include "launch/commands/command.h"
#include "launch/config/config.h"
#include "launch/config/values.h"
#include "launch/machine/exit_code.h"
#include "launch/scaling/law.h"
#include "launch/scaling/law_report.h"
#include "launch/step/memory_plan.h"
#include "launch/studies/study_costs.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

/// f32 masters, gradients and two moments, bf16 values beside them: of a parameter, on one rank.
constexpr double bytes_per_parameter = 18.0;

std::optional<double> positive(const CommandLine& line, const char* option) {
  if (!line.has(option)) return std::nullopt;
  const auto value = parse_real(line.value(option));
  if (!value || *value <= 0.0)
    throw InvalidArgument(fmt::format("--{} {}: must be a number > 0", option, line.value(option)));
  return value;
}

void check_reach(const ScalingLaw& law, double flops, bool force) {
  constexpr double most = 10.0;
  if (flops <= most * law.largest_flops) return;
  const std::string what = fmt::format(
      "{:.3g} FLOP are {:.3g} times the largest run's {:.3g}: a law says little beyond 10 times",
      flops, flops / law.largest_flops, law.largest_flops);
  if (!force) throw InvalidArgument("scale predict: " + what + " (--force predicts all the same)");
  std::cerr << "polymoe: warning: " << what << "\n";
}

void warn_where_far(const ScalingLaw& law, const ScalingRun& run) {
  for (const std::string& line : far_from_runs(law, run))
    std::cerr << "polymoe: warning: " << line << ": the interval does not cover what a law of "
              << "another form would say there\n";
}

double counted(const MemoryPlan& plan, const ModelConfig& model, ParameterCount count) {
  const auto embedding = static_cast<double>(model.vocab * model.hidden * (model.tied ? 1 : 2));
  const auto total = static_cast<double>(plan.total_parameters);
  const auto active = static_cast<double>(plan.active_parameters);
  switch (count) {
    case ParameterCount::active:
      return active;
    case ParameterCount::active_no_embeddings:
      return active - embedding;
    case ParameterCount::total:
      return total;
    case ParameterCount::total_no_embeddings:
      break;
  }
  return total - embedding;
}

void predict_configuration(const ScalingLaw& law, const CommandLine& line) {
  const Config config = read_config(line.value("config"), line.overrides());
  if (config.train.steps < 1)
    throw InvalidArgument("train.steps = 0: must be at least 1, of the run to be predicted");
  const ModelConfig& model = config.model;
  Config planned = config;
  planned.parallel.expert = 1;
  const MemoryPlan plan = plan_memory(planned, {.ranks = 1, .threads = 1});
  ScalingRun run;
  run.parameters = counted(plan, model, law.count);
  run.tokens = static_cast<double>(config.train.steps * config.train.global_batch * model.context);
  if (model.moe.experts > 0) {
    run.experts = static_cast<double>(model.moe.experts) / static_cast<double>(model.moe.top_k);
    run.granularity =
        4.0 * static_cast<double>(model.hidden) / static_cast<double>(model.expert_width());
  }
  run.flops = LanguageModel::training_flops_per_token(model) * run.tokens;
  check_reach(law, run.flops, line.has("force"));
  warn_where_far(law, run);
  std::cout << fmt::format("N = {:.4g} ({}), D = {:.4g} tokens, {:.4g} FLOP\nloss {}\n",
                           run.parameters, name_of(law.count), run.tokens, run.flops,
                           prediction_text(predict(law.fit, law.draws, run)));
}

void predict_budget(const ScalingLaw& law, const CommandLine& line) {
  auto flops = positive(line, "flops");
  const auto hours = positive(line, "gpu-hours"), memory = positive(line, "memory");
  if (hours) {
    if (!line.has("rates"))
      throw InvalidArgument(
          "--gpu-hours: needs --rates FILE, of `polymoe bench --json` on one GPU");
    flops = *hours * 3600.0 * measured_flops_per_second(line.value("rates"));
    std::cout << fmt::format("{:g} GPU-hours at the measured speed: {:.4g} FLOP\n", *hours, *flops);
  }
  double most = std::numeric_limits<double>::max();
  if (memory) {
    most = *memory / (bytes_per_parameter * law.memory_per_parameter);
    std::cout << fmt::format(
        "{:.4g} bytes hold N of at most {:.4g}, at {:g} bytes of each of {:.3g} "
        "stored parameters per N, activations apart\n",
        *memory, most, bytes_per_parameter, law.memory_per_parameter);
  }
  check_reach(law, *flops, line.has("force"));
  const Optimum best = best_for_flops(law, *flops, most);
  warn_where_far(law, best.run);
  std::cout << fmt::format(
      "best for {:.4g} FLOP: N = {:.4g} ({}), 80 % in [{:.4g}, {:.4g}]; D = {:.4g} tokens, 80 % in "
      "[{:.4g}, {:.4g}]\nloss {}\n",
      *flops, best.run.parameters, name_of(law.count), best.parameters_80.low,
      best.parameters_80.high, best.run.tokens, best.tokens_80.low, best.tokens_80.high,
      prediction_text(best.prediction));
  if (law.fit.form != ScalingForm::chinchilla)
    std::cout << fmt::format(
        "with {:g} experts per one that is taken, granularity {:.3g}: those of "
        "the largest run\n",
        law.experts, law.granularity);
  if (best.at_edge)
    std::cout << "the best size lies at the edge of what was tried"
              << (memory ? ": memory bounds it" : "") << "\n";
}

int run_scale_predict(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = scale_predict_command().parse(args);
  const bool of_budget = line.has("flops") || line.has("gpu-hours");
  if (line.has("flops") && line.has("gpu-hours"))
    throw InvalidArgument("--flops and --gpu-hours: one of them");
  if (of_budget == line.has("config"))
    throw InvalidArgument("give either --config FILE, or a budget: --flops N or --gpu-hours N");
  const ScalingLaw law = read_law(line.value("fit"));
  if (of_budget)
    predict_budget(law, line);
  else
    predict_configuration(law, line);
  return exit_done;
}

}  // namespace

const Command& scale_predict_command() {
  static const Command command = {
      .name = "scale predict",
      .summary =
          "Predicts the loss of a configuration, or the best size for a budget, with "
          "intervals",
      .arguments = "",
      .options = {{.name = "fit",
                   .value = "FILE",
                   .help = "fit.json of `polymoe scale fit`",
                   .required = true},
                  {.name = "config", .value = "FILE", .help = "the run to be predicted"},
                  {.name = "flops", .value = "N", .help = "of training: what is the best size?"},
                  {.name = "gpu-hours", .value = "N", .help = "the same, by --rates"},
                  {.name = "rates",
                   .value = "FILE",
                   .help = "of `polymoe bench --json`: the speed of one GPU"},
                  {.name = "memory",
                   .value = "BYTES",
                   .help = "that values, gradients and optimizer state may take in all"},
                  {.name = "force",
                   .value = "",
                   .help = "predicts also beyond 10 times the compute of the largest run"}},
      .overrides = true,
      .run = run_scale_predict};
  return command;
}

}  // namespace polymoe
