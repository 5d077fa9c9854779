// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <iostream>
#include <optional>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/config.h"
#include "launch/config/values.h"
#include "launch/machine/exit_code.h"
#include "launch/scaling/fit.h"
#include "launch/scaling/form.h"
#include "launch/scaling/law.h"
#include "launch/scaling/law_report.h"
#include "launch/scaling/optimum.h"
#include "launch/scaling/runs.h"
#include "launch/step/memory_plan.h"
#include "launch/studies/study_costs.h"
#include "moe/model_config.h"
#include "moe/model_size.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

/// f32 masters (of which the bf16 values are a part), gradients and two moments: of a parameter, on
/// one rank.
constexpr double bytes_per_parameter = 16.0;

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
  run.flops = training_flops_per_token(model) * run.tokens;
  check_reach(law, run.flops, line.has("force"));
  warn_where_far(law, run);
  std::cout << fmt::format("N = {:.4g} ({}), D = {:.4g} tokens, {:.4g} FLOP\nloss {}\n",
                           run.parameters, name_of(law.count), run.tokens, run.flops,
                           prediction_text(predict(law.fit, law.draws, run)));
}

/// What the options say there is.
ScalingBudget budget_of(const ScalingLaw& law, const CommandLine& line) {
  ScalingBudget budget{.flops = positive(line, "flops"), .tokens = positive(line, "tokens")};
  if (const auto hours = positive(line, "gpu-hours")) {
    if (!line.has("rates"))
      throw InvalidArgument(
          "--gpu-hours: needs --rates FILE, of `polymoe bench --json` on one GPU");
    budget.flops = *hours * 3600.0 * measured_flops_per_second(line.value("rates"));
    std::cout << fmt::format("{:g} GPU-hours at the measured speed: {:.4g} FLOP\n", *hours,
                             *budget.flops);
  }
  if (const auto memory = positive(line, "memory")) {
    budget.most_stored = *memory / bytes_per_parameter;
    std::cout << fmt::format(
        "{:.4g} bytes hold {:.4g} parameters of {:g} bytes, activations apart; {:.3g} are stored "
        "for one of N{}\n",
        *memory, budget.most_stored, bytes_per_parameter, law.stored.at(law.experts.high),
        law.stored.slope > 0.0 ? " with the most experts" : "");
  }
  return budget;
}

void predict_budget(const ScalingLaw& law, const CommandLine& line) {
  const ScalingBudget budget = budget_of(law, line);
  const bool force = line.has("force");
  if (budget.flops) check_reach(law, *budget.flops, force);
  const Optimum best = best_for(law, budget);
  if (!budget.flops) check_reach(law, best.run.flops, force);
  warn_where_far(law, best.run);
  std::cout << fmt::format("best for {:.4g} FLOP: N = {:.4g} ({}), 80 % in [{:.4g}, {:.4g}]; ",
                           best.run.flops, best.run.parameters, name_of(law.count),
                           best.parameters_80.low, best.parameters_80.high);
  std::cout << fmt::format("D = {:.4g} tokens{}\nloss {}\n", best.run.tokens,
                           budget.tokens ? ", as given"
                                         : fmt::format(", 80 % in [{:.4g}, {:.4g}]",
                                                       best.tokens_80.low, best.tokens_80.high),
                           prediction_text(best.prediction));
  if (law.fit.form == ScalingForm::moe)
    std::cout << fmt::format(
        "{:.3g} experts for one that a token takes, 80 % in [{:.3g}, {:.3g}], of {:g} to {:g} that "
        "the runs have\n",
        best.run.experts, best.experts_80.low, best.experts_80.high, law.experts.low,
        law.experts.high);
  if (law.fit.form == ScalingForm::granularity)
    std::cout << fmt::format("with granularity {:.3g}, that of the largest run\n", law.granularity);
  if (best.at_edge)
    std::cout << "the best size lies at the edge of what was tried"
              << (line.has("memory") ? ": memory bounds it" : "") << "\n";
}

int run_scale_predict(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = scale_predict_command().parse(args);
  int ways = 0;
  for (const char* way : {"config", "flops", "gpu-hours", "tokens"}) ways += line.has(way) ? 1 : 0;
  if (ways != 1)
    throw InvalidArgument(
        "give one of --config FILE, --flops N, --gpu-hours N, --tokens N (with --memory BYTES)");
  if (line.has("tokens") && !line.has("memory"))
    throw InvalidArgument("--tokens: needs --memory BYTES, or the largest size were the best");
  const bool of_budget = !line.has("config");
  for (const char* option : {"memory", "rates"}) {
    if (line.has(option) &&
        !(of_budget && (option != std::string("rates") || line.has("gpu-hours"))))
      throw InvalidArgument(fmt::format("--{}: has no meaning with --{}", option,
                                        !of_budget          ? "config"
                                        : line.has("flops") ? "flops"
                                                            : "tokens"));
  }
  if (of_budget && !line.overrides().empty())
    throw InvalidArgument(line.overrides().front() +
                          ": changes the run of --config, and there is none");
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
                  {.name = "tokens",
                   .value = "N",
                   .help = "that there are: what is the best size that fits --memory?"},
                  {.name = "force",
                   .value = "",
                   .help = "predicts also beyond 10 times the compute of the largest run"}},
      .overrides = true,
      .run = run_scale_predict};
  return command;
}

}  // namespace polymoe
