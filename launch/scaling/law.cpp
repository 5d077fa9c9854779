// SPDX-License-Identifier: Apache-2.0
#include "launch/scaling/law.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "launch/scaling/fit.h"
#include "launch/scaling/form.h"
#include "launch/scaling/runs.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

template <class Value>
std::size_t levels(const std::vector<ScalingRun>& runs, Value value) {
  std::set<double> seen;
  // Sizes that round to the same percent are one level: activations differ in a coefficient.
  for (const ScalingRun& run : runs) seen.insert(std::round(std::log(value(run)) * 100.0));
  return seen.size();
}

const ScalingRun& largest(const std::vector<ScalingRun>& runs) {
  return *std::max_element(runs.begin(), runs.end(), [](const ScalingRun& a, const ScalingRun& b) {
    return a.flops < b.flops;
  });
}

/// Least squares; without a slope where the runs have the same experts.
template <class Value>
AlongExperts along_experts(const std::vector<ScalingRun>& runs, Value value) {
  const auto count = static_cast<double>(runs.size());
  double x = 0.0, y = 0.0, xx = 0.0, xy = 0.0;
  for (const ScalingRun& run : runs) {
    x += run.experts / count;
    y += value(run) / count;
  }
  for (const ScalingRun& run : runs) {
    xx += (run.experts - x) * (run.experts - x);
    xy += (run.experts - x) * (value(run) - y);
  }
  AlongExperts line{.base = y};
  if (xx > 1e-9 * count * x * x) line = {.base = y - xy / xx * x, .slope = xy / xx};
  return line;
}

Json numbers(const std::vector<double>& values) {
  Json array = Json::array();
  for (const double value : values) array.add(value);
  return array;
}

std::vector<double> numbers(const Json& json, std::size_t count) {
  std::vector<double> values;
  for (const Json& value : json.items()) values.push_back(value.as_number());
  if (values.size() != count)
    throw InvalidArgument(fmt::format("{} numbers, where the form has {}", values.size(), count));
  return values;
}

}  // namespace

std::vector<std::string> fit_violations(ScalingForm form, const std::vector<ScalingRun>& runs) {
  std::vector<std::string> lines;
  const std::size_t parameters = parameter_names(form).size();
  if (runs.size() < 2 * parameters)
    lines.push_back(fmt::format("{} finished runs: a law of {} parameters needs at least {}",
                                runs.size(), parameters, 2 * parameters));
  const auto check = [&](const char* axis, std::size_t count) {
    if (count < 3)
      lines.push_back(fmt::format("{} different values of {}: at least 3 are needed", count, axis));
  };
  check("parameters", levels(runs, [](const ScalingRun& run) { return run.parameters; }));
  check("tokens", levels(runs, [](const ScalingRun& run) { return run.tokens; }));
  if (form == ScalingForm::moe)
    check("experts", levels(runs, [](const ScalingRun& run) { return run.experts; }));
  if (form == ScalingForm::granularity)
    check("granularity", levels(runs, [](const ScalingRun& run) { return run.granularity; }));
  return lines;
}

std::vector<std::string> undetermined_terms(const ScalingFit& fit,
                                            const std::vector<ScalingRun>& runs) {
  constexpr double least_share = 1e-3;
  static const std::vector<std::string> sums = {"E", "the term of N", "the term of D"};
  static const std::vector<std::string> of_granularity = {"E", "the term of G", "the term of N",
                                                          "the term of D"};
  const std::vector<std::string>& names =
      fit.form == ScalingForm::granularity ? of_granularity : sums;
  std::vector<double> most(names.size(), 0.0);
  for (const ScalingRun& run : runs) {
    const auto terms = terms_of(fit.form, run, fit.centre);
    const double whole = log_loss(terms, fit.theta, nullptr);
    for (std::size_t k = 0; k < terms.size(); ++k)
      most[k] = std::max(most[k], std::exp(log_loss({terms[k]}, fit.theta, nullptr) - whole));
  }
  std::vector<std::string> undetermined;
  for (std::size_t k = 0; k < names.size(); ++k)
    if (most[k] < least_share) undetermined.push_back(names[k]);
  return undetermined;
}

std::vector<std::string> far_from_runs(const ScalingLaw& law, const ScalingRun& run) {
  constexpr double most = 10.0;
  std::vector<std::string> lines;
  const auto check = [&](const char* name, double value, const Range& range) {
    if (value > most * range.high)
      lines.push_back(fmt::format("{} = {:.3g} is {:.3g} times the largest of the runs", name,
                                  value, value / range.high));
    if (value * most < range.low)
      lines.push_back(fmt::format("{} = {:.3g} is {:.3g} times less than the smallest of the runs",
                                  name, value, range.low / value));
  };
  check("N", run.parameters, law.parameters);
  check("D", run.tokens, law.tokens);
  check("experts per one that is taken", run.experts, law.experts);
  return lines;
}

std::optional<HeldOut> hold_out_largest(ScalingForm form, const std::vector<ScalingRun>& runs,
                                        int resamples) {
  double most = 0.0;
  for (const ScalingRun& run : runs) most = std::max(most, run.parameters);
  std::vector<ScalingRun> others, held;
  for (const ScalingRun& run : runs) (run.parameters > 0.99 * most ? held : others).push_back(run);
  if (others.size() < parameter_names(form).size() + 1) return std::nullopt;
  const ScalingFit fit = fit_scaling_law(form, others);
  const auto draws = bootstrap(fit, others, resamples, 1);
  HeldOut result{.parameters = most, .runs = {}};
  for (const ScalingRun& run : held) {
    const Prediction prediction = predict(fit, draws, run);
    const auto within = [&](const Range& range) {
      return range.low <= run.loss && run.loss <= range.high;
    };
    result.runs.push_back({.run = run,
                           .prediction = prediction,
                           .within_80 = within(prediction.run_80),
                           .within_95 = within(prediction.run_95)});
    result.mean_error +=
        std::abs(std::log(prediction.loss / run.loss)) / static_cast<double>(held.size());
  }
  return result;
}

ScalingLaw make_law(ScalingForm form, const std::vector<ScalingRun>& runs, ParameterCount count,
                    const std::string& activation, int resamples) {
  ScalingLaw law;
  law.fit = fit_scaling_law(form, runs);
  law.count = count;
  law.activation = activation;
  law.draws = bootstrap(law.fit, runs, resamples, 0);
  const ScalingRun& top = largest(runs);
  law.largest_flops = top.flops;
  law.parameters = {.low = top.parameters, .high = top.parameters};
  law.tokens = {.low = top.tokens, .high = top.tokens};
  law.experts = {.low = top.experts, .high = top.experts};
  for (const ScalingRun& run : runs) {
    law.parameters = {.low = std::min(law.parameters.low, run.parameters),
                      .high = std::max(law.parameters.high, run.parameters)};
    law.tokens = {.low = std::min(law.tokens.low, run.tokens),
                  .high = std::max(law.tokens.high, run.tokens)};
    law.experts = {.low = std::min(law.experts.low, run.experts),
                   .high = std::max(law.experts.high, run.experts)};
  }
  law.granularity = top.granularity;
  law.tokens_per_flop = along_experts(
      runs, [](const ScalingRun& run) { return run.parameters * run.tokens / run.flops; });
  law.stored = along_experts(
      runs, [](const ScalingRun& run) { return run.memory_parameters / run.parameters; });
  return law;
}

Json law_json(const ScalingLaw& law) {
  const ScalingFit& fit = law.fit;
  Json parameters = Json::object();
  const std::vector<double> theta = uncentred(fit.form, fit.theta, fit.centre);
  const std::vector<std::string>& names = parameter_names(fit.form);
  for (std::size_t p = 0; p < names.size(); ++p) {
    std::vector<double> values;
    for (const std::vector<double>& draw : law.draws)
      values.push_back(uncentred(fit.form, draw, fit.centre)[p]);
    Json entry = Json::object();
    entry.set("value", theta[p]);
    if (!values.empty()) {
      const Range most = middle(values, 0.8), nearly_all = middle(values, 0.95);
      entry.set("interval_80", numbers({most.low, most.high}))
          .set("interval_95", numbers({nearly_all.low, nearly_all.high}));
    }
    parameters.set(names[p], std::move(entry));
  }
  Json draws = Json::array();
  for (const std::vector<double>& draw : law.draws) draws.add(numbers(draw));
  return std::move(
      Json::object()
          .set("form", name_of(fit.form))
          .set("formula", formula_of(fit.form))
          .set("N", name_of(law.count))
          .set("activation", law.activation)
          .set("runs", fit.runs)
          .set("parameters", std::move(parameters))
          .set("objective", fit.objective)
          .set("starts", fit.starts)
          .set("starts_best", fit.starts_best)
          .set("aicc", fit.akaike)
          .set("residual", fit.residual)
          .set("seed_noise", fit.seed_noise)
          .set("largest_flops", law.largest_flops)
          .set("parameters_of_runs", numbers({law.parameters.low, law.parameters.high}))
          .set("tokens_of_runs", numbers({law.tokens.low, law.tokens.high}))
          .set("experts_of_runs", numbers({law.experts.low, law.experts.high}))
          .set("tokens_per_flop", numbers({law.tokens_per_flop.base, law.tokens_per_flop.slope}))
          .set("stored", numbers({law.stored.base, law.stored.slope}))
          .set("granularity", law.granularity)
          .set("centre", numbers({fit.centre.log_parameters, fit.centre.log_tokens}))
          .set("theta", numbers(fit.theta))
          .set("draws", std::move(draws)));
}

ScalingLaw read_law(const std::filesystem::path& file) {
  constexpr std::int64_t most_bytes = 256 << 20;
  const std::string name = file.string();
  try {
    const Json json = parse_json(read_file(file, most_bytes), name);
    ScalingLaw law;
    const std::string& form = json.at("form").as_string();
    bool known = false;
    for (const ScalingForm one :
         {ScalingForm::chinchilla, ScalingForm::moe, ScalingForm::granularity}) {
      if (form != name_of(one)) continue;
      law.fit.form = one;
      known = true;
    }
    const auto count = parse_parameter_count(json.at("N").as_string());
    if (!known || !count) throw InvalidArgument("an unknown form, or an unknown N");
    law.count = *count;
    const std::size_t parameters = parameter_names(law.fit.form).size();
    law.activation = json.at("activation").as_string();
    law.fit.runs = static_cast<std::size_t>(json.at("runs").as_integer(1));
    law.fit.seed_noise = json.at("seed_noise").as_number();
    law.largest_flops = json.at("largest_flops").as_number();
    const std::vector<double> sizes = numbers(json.at("parameters_of_runs"), 2);
    const std::vector<double> lengths = numbers(json.at("tokens_of_runs"), 2);
    law.parameters = {.low = sizes[0], .high = sizes[1]};
    law.tokens = {.low = lengths[0], .high = lengths[1]};
    const std::vector<double> experts = numbers(json.at("experts_of_runs"), 2);
    const std::vector<double> work = numbers(json.at("tokens_per_flop"), 2);
    const std::vector<double> stored = numbers(json.at("stored"), 2);
    law.experts = {.low = experts[0], .high = experts[1]};
    law.tokens_per_flop = {.base = work[0], .slope = work[1]};
    law.stored = {.base = stored[0], .slope = stored[1]};
    law.granularity = json.at("granularity").as_number();
    const std::vector<double> centre = numbers(json.at("centre"), 2);
    law.fit.centre = {.log_parameters = centre[0], .log_tokens = centre[1]};
    law.fit.theta = numbers(json.at("theta"), parameters);
    for (const Json& draw : json.at("draws").items())
      law.draws.push_back(numbers(draw, parameters));
    return law;
  } catch (const InvalidArgument& error) {
    throw InputFileError(name,
                         fmt::format("not what `polymoe scale fit` writes: {}", error.what()));
  }
}

}  // namespace polymoe
