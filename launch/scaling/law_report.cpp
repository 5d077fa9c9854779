// SPDX-License-Identifier: Apache-2.0
#include "launch/scaling/law_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/reports/figure.h"
#include "launch/reports/page.h"
#include "launch/scaling/fit.h"
#include "launch/scaling/form.h"
#include "launch/scaling/law.h"
#include "launch/scaling/optimum.h"
#include "launch/scaling/runs.h"

namespace polymoe {
namespace {

Table parameter_table(const ScalingLaw& law) {
  Table table{.title = "Parameters",
              .columns = {"", "value", "80 % interval", "95 % interval"},
              .rows = {}};
  const ScalingFit& fit = law.fit;
  const std::vector<double> theta = uncentred(fit.form, fit.theta, fit.centre);
  const std::vector<std::string>& names = parameter_names(fit.form);
  for (std::size_t p = 0; p < names.size(); ++p) {
    const bool factor = names[p].starts_with("log ");
    const auto shown = [&](double value) { return factor ? std::exp(value) : value; };
    std::vector<double> values;
    for (const std::vector<double>& draw : law.draws)
      values.push_back(shown(uncentred(fit.form, draw, fit.centre)[p]));
    std::vector<std::string> row = {factor ? names[p].substr(4) : names[p],
                                    fmt::format("{:.5g}", shown(theta[p]))};
    for (const double share : {0.8, 0.95}) {
      if (values.empty()) {
        row.emplace_back("-");
        continue;
      }
      const Range range = middle(values, share);
      row.push_back(fmt::format("{:.5g} to {:.5g}", range.low, range.high));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

/// The largest run's compute and what is still within reach of the law.
std::vector<Optimum> best_sizes(const ScalingLaw& law) {
  std::vector<Optimum> best;
  for (const double times : {0.1, 0.3, 1.0, 3.0, 10.0})
    best.push_back(best_for(law, {.flops = times * law.largest_flops}));
  return best;
}

Table best_table(const ScalingLaw& law, const std::vector<Optimum>& best) {
  Table table{
      .title = "The best size for a budget of FLOP",
      .columns = {"FLOP", "N", "80 % interval", "D", "80 % interval", "loss of a run, 80 %"},
      .rows = {}};
  const bool experts = law.fit.form == ScalingForm::moe;
  if (experts) table.columns.emplace_back("experts for one that is taken");
  table.columns.emplace_back("beyond the runs");
  for (const Optimum& optimum : best) {
    const auto range = [](const Range& one) {
      return fmt::format("{:.3g} to {:.3g}", one.low, one.high);
    };
    const Prediction& loss = optimum.prediction;
    table.rows.push_back(
        {fmt::format("{:.3g}", optimum.run.flops),
         fmt::format("{:.3g}{}", optimum.run.parameters, optimum.at_edge ? " (edge)" : ""),
         range(optimum.parameters_80), fmt::format("{:.3g}", optimum.run.tokens),
         range(optimum.tokens_80),
         fmt::format("{:.4f} ({:.4f} to {:.4f})", loss.loss, loss.run_80.low, loss.run_80.high)});
    if (experts)
      table.rows.back().push_back(
          fmt::format("{:.3g} ({})", optimum.run.experts, range(optimum.experts_80)));
    table.rows.back().push_back(
        fmt::format("{}", fmt::join(far_from_runs(law, optimum.run), "; ")));
  }
  return table;
}

/// With every column as wide as its widest cell.
std::string columns_text(const Table& table) {
  std::vector<std::size_t> widths;
  for (const std::string& column : table.columns) widths.push_back(column.size());
  for (const auto& row : table.rows)
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  std::string text = "\n" + table.title + "\n";
  const auto add = [&](const std::vector<std::string>& row) {
    for (std::size_t c = 0; c < row.size(); ++c)
      text += fmt::format("  {:<{}}", row[c], c + 1 == row.size() ? 0 : widths[c]);
    text += "\n";
  };
  add(table.columns);
  for (const auto& row : table.rows) add(row);
  return text;
}

Chart best_chart(const std::vector<Optimum>& best) {
  Series size{.name = "N", .style = Series::Style::line};
  for (const Optimum& optimum : best) {
    size.x.push_back(optimum.run.flops);
    size.y.push_back(optimum.run.parameters);
    size.low.push_back(optimum.parameters_80.low);
    size.high.push_back(optimum.parameters_80.high);
  }
  return {.title = "The best size for a budget",
          .x = {.label = "FLOP", .logarithmic = true},
          .y = {.label = "N", .logarithmic = true},
          .series = {size}};
}

std::string as_text(const Table& table) {
  std::string text = "\n" + table.title + "\n";
  for (const auto& row : table.rows)
    text += fmt::format("  {:<8}{:>14}    80 % {:<28} 95 % {}\n", row[0], row[1], row[2], row[3]);
  return text;
}

std::string held_out_text(const std::optional<HeldOut>& held_out) {
  if (!held_out)
    return "The largest size could not be held out: the other runs are too few for a law.\n";
  std::size_t within_80 = 0, within_95 = 0;
  std::string text =
      fmt::format("Held out: {} runs of the largest N = {:.4g}, predicted by the others\n",
                  held_out->runs.size(), held_out->parameters);
  for (const HeldOut::Run& one : held_out->runs) {
    text +=
        fmt::format("  D = {:<10.4g} loss {:.4f}, predicted {}{}\n", one.run.tokens, one.run.loss,
                    prediction_text(one.prediction), one.within_95 ? "" : ": OUTSIDE");
    within_80 += one.within_80 ? 1 : 0;
    within_95 += one.within_95 ? 1 : 0;
  }
  return text + fmt::format("  mean error {:.2f} %; {} of {} within 80 %, {} within 95 %\n",
                            100.0 * held_out->mean_error, within_80, held_out->runs.size(),
                            within_95);
}

std::string fit_text(const ScalingLaw& law) {
  const ScalingFit& fit = law.fit;
  return fmt::format(
      "{}{}: {}\nN: {} parameters; D: tokens, each counted as often as it was read\n"
      "{} runs; {} of {} starts reach the best; residual of ln L {:.4f}, between seeds {:.4f}; "
      "AICc {:.1f}\n",
      law.activation.empty() ? "" : law.activation + ", ", name_of(fit.form), formula_of(fit.form),
      name_of(law.count), fit.runs, fit.starts_best, fit.starts, fit.residual, fit.seed_noise,
      fit.akaike);
}

std::string undetermined_text(const ScalingLaw& law, const std::vector<ScalingRun>& runs) {
  std::string text;
  for (const std::string& term : undetermined_terms(law.fit, runs))
    text += fmt::format(
        "NOT DETERMINED by these runs: {}, less than a thousandth of every loss; its interval "
        "means "
        "nothing, and neither does a prediction where it would matter\n",
        term);
  return text;
}

}  // namespace

std::string prediction_text(const Prediction& prediction) {
  return fmt::format("{:.4f}, a run's 80 % in [{:.4f}, {:.4f}], 95 % in [{:.4f}, {:.4f}]",
                     prediction.loss, prediction.run_80.low, prediction.run_80.high,
                     prediction.run_95.low, prediction.run_95.high);
}

std::string law_text(const ScalingLaw& law, const std::optional<HeldOut>& held_out,
                     const std::vector<ScalingRun>& runs) {
  return held_out_text(held_out) + "\n" + fit_text(law) + undetermined_text(law, runs) +
         as_text(parameter_table(law)) + columns_text(best_table(law, best_sizes(law)));
}

std::string law_html(const ScalingLaw& law, const std::optional<HeldOut>& held_out,
                     const std::vector<ScalingRun>& runs) {
  Page page("Scaling law");
  page.paragraph(fit_text(law));
  const std::string undetermined = undetermined_text(law, runs);
  if (!undetermined.empty()) page.paragraph(undetermined);
  Chart losses{.title = "Loss against compute",
               .x = {.label = "FLOP", .logarithmic = true},
               .y = {.label = "loss, nats"},
               .series = {}};
  Chart residuals{.title = "Residuals",
                  .x = {.label = "FLOP", .logarithmic = true},
                  .y = {.label = "ln(loss / law)"},
                  .series = {}};
  std::map<std::int64_t, std::vector<const ScalingRun*>> by_size;
  for (const ScalingRun& run : runs) by_size[std::llround(run.parameters)].push_back(&run);
  for (auto& [size, members] : by_size) {
    std::sort(members.begin(), members.end(),
              [](const ScalingRun* a, const ScalingRun* b) { return a->flops < b->flops; });
    Series points{.name = fmt::format("N = {:.3g}", static_cast<double>(size)),
                  .style = Series::Style::points};
    Series line{.name = "", .style = Series::Style::line};
    points.look = line.look = static_cast<int>(losses.series.size() / 2);
    Series residual = points;
    for (const ScalingRun* run : members) {
      const double value = predicted(law.fit, *run);
      for (Series* series : {&points, &line, &residual}) series->x.push_back(run->flops);
      points.y.push_back(run->loss);
      line.y.push_back(std::exp(value));
      residual.y.push_back(std::log(run->loss) - value);
    }
    losses.series.push_back(std::move(points));
    losses.series.push_back(std::move(line));
    residuals.series.push_back(std::move(residual));
  }
  page.figure(losses, "Points: runs. Lines: the law.");
  page.figure(residuals);
  page.table(parameter_table(law));
  const std::vector<Optimum> best = best_sizes(law);
  page.figure(best_chart(best), "Band: 80 % of the resamples.");
  page.table(best_table(law, best));
  page.heading("The largest size, held out");
  page.paragraph(held_out_text(held_out));
  return page.html();
}

}  // namespace polymoe
