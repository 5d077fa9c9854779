// SPDX-License-Identifier: Apache-2.0
#include "launch/bench/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <string>
#include <utility>

#include "launch/bench/exchange_cost.h"
#include "launch/bench/model_bench.h"
#include "launch/bench/timing.h"
#include "launch/config/config.h"
#include "launch/config/step_shares.h"
#include "launch/machine/version.h"
#include "launch/step/memory_plan.h"
#include "runtime/dtype.h"
#include "runtime/files/json.h"
#include "runtime/system.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

constexpr double mebi = 1024.0 * 1024.0;

std::string duration(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.1f} us", seconds * 1e6);
  if (seconds < 1.0) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.3f} s", seconds);
}

double share(const BenchResult& result, const BenchSetting& setting) {
  return result.floor.seconds(setting.rates, setting.ranks) / result.timing.median;
}

/// Per second, of all ranks.
double rate(double work, const BenchResult& result, const BenchSetting& setting) {
  return work * static_cast<double>(setting.ranks) / result.timing.median;
}

double spread(const Timing& timing) { return (timing.upper - timing.lower) / timing.median; }

std::string exchange_text(const ExchangeCost& cost) {
  return fmt::format(
      "exchange of a rank: {} transfers, {:.2f} MB in {:.0f} rows, {:.2f} times fewer than (token, "
      "expert) pairs; on the link {}, at {:.1f} GB/s with transfers of this size; waited for {}: "
      "{:.0f} % hidden; the fullest rank's experts have {:.2f} times the mean rows",
      cost.transfers, cost.bytes / 1e6, cost.rows, cost.slots / std::max(cost.rows, 1.0),
      duration(cost.seconds_on_link()), cost.bytes_per_second / 1e9, duration(cost.seconds_waited),
      100.0 * cost.hidden(), cost.fullest_over_mean);
}

Json exchange_json(const ExchangeCost& cost) {
  Json json = Json::object();
  json.set("transfers", cost.transfers)
      .set("bytes", cost.bytes)
      .set("rows", cost.rows)
      .set("slots", cost.slots)
      .set("link_bytes_per_second", cost.bytes_per_second)
      .set("seconds_on_link", cost.seconds_on_link())
      .set("seconds_waited", cost.seconds_waited)
      .set("hidden", cost.hidden())
      .set("fullest_over_mean", cost.fullest_over_mean);
  return json;
}

}  // namespace

std::string bench_head(const BenchSetting& setting) {
  const MachineRates& rates = setting.rates;
  std::string text = fmt::format(
      "polymoe {} ({})\n{}\n{} rank{} of {} thread{}\n\n", version(), git_revision(),
      setting.device.empty() ? processor_name() : setting.device + "; " + processor_name(),
      setting.ranks, setting.ranks == 1 ? "" : "s", setting.threads_per_rank,
      setting.threads_per_rank == 1 ? "" : "s");
  text +=
      fmt::format("copy            {:>9.1f} GB/s, reads and writes counted\n", rates.copy / 1e9);
  text += fmt::format("read            {:>9.1f} GB/s\n", rates.read / 1e9);
  text += fmt::format("product {:<8}{:>9.1f} GFLOP/s, {}\n",
                      fmt::format("{}^3", setting.product.extent), rates.product / 1e9,
                      name_of(setting.product.dtype));
  if (setting.ranks > 1)
    text +=
        fmt::format("all-to-all      {:>9.1f} GB/s sent by all ranks\n", rates.all_to_all / 1e9);
  if (setting.link.known())
    text += fmt::format(
        "link of a rank  {:>9.1f} GB/s reduced and scattered, {:.1f} gathered; latency {}\n",
        setting.link.reduce_scatter / 1e9, setting.link.all_gather / 1e9,
        duration(setting.link.latency));
  return text + fmt::format("\n{:<34}{:<32}{:>11}{:>8}{:>18}{:>9}{:>12}{:>13}\n", "", "", "median",
                            "spread", "rate", "ceiling", "floor MB", "floor GFLOP");
}

std::string bench_line(const BenchResult& result, const BenchSetting& setting) {
  const WorkFloor& floor = result.floor;
  const std::string achieved =
      floor.bound_by_products(setting.rates)
          ? fmt::format("{:.1f} GFLOP/s", rate(floor.operations, result, setting) / 1e9)
          : fmt::format("{:.1f} GB/s", rate(floor.bytes, result, setting) / 1e9);
  const auto ranks = static_cast<double>(setting.ranks);
  return fmt::format("{:<34}{:<32}{:>11}{:>6.0f} %{:>18}{:>7.1f} %{:>12.2f}{:>13.3f}\n",
                     result.name, result.shape, duration(result.timing.median),
                     100.0 * spread(result.timing), achieved, 100.0 * share(result, setting),
                     floor.bytes * ranks / 1e6, floor.operations * ranks / 1e9);
}

std::string step_text(const StepDetails& step, const MemoryPlan& plan) {
  std::string text = fmt::format("\nstep: {:.0f} tokens/s;", step.tokens_per_second);
  const double total = std::accumulate(step.seconds.begin(), step.seconds.end(), 0.0);
  for (std::size_t i = 0; i < step.seconds.size(); ++i)
    text += fmt::format("{} {} {:.1f} %", i == 0 ? "" : ",", name_of(static_cast<Phase>(i)),
                        100.0 * step.seconds[i] / total);
  if (step.exchange.transfers > 0) text += '\n' + exchange_text(step.exchange);
  const auto planned = static_cast<double>(plan.device_total());
  const auto taken = static_cast<double>(step.peak - step.peak_before);
  return text + fmt::format(
                    "\nmemory of a rank: at most {:.1f} MiB, of which {:.1f} MiB without a model; "
                    "the step took {:.3f} of the {:.1f} MiB that `plan` says\n",
                    static_cast<double>(step.peak) / mebi,
                    static_cast<double>(step.peak_before) / mebi, taken / planned, planned / mebi);
}

Json bench_json(const BenchReport& report, const Config& config) {
  const BenchSetting& setting = report.setting;
  Json machine = Json::object();
  machine.set("processor", processor_name())
      .set("device", setting.device)
      .set("ranks", setting.ranks)
      .set("threads_per_rank", setting.threads_per_rank)
      .set("copy_bytes_per_second", setting.rates.copy)
      .set("read_bytes_per_second", setting.rates.read)
      .set("product_operations_per_second", setting.rates.product);
  machine.set("memory_of_rank_bytes", setting.memory);
  if (setting.ranks > 1) {
    machine.set("all_to_all_bytes_per_second", setting.rates.all_to_all);
  }
  if (setting.link.known()) {
    machine.set("link",
                std::move(Json::object()
                              .set("all_to_all_bytes_per_second", setting.link.all_to_all)
                              .set("reduce_scatter_bytes_per_second", setting.link.reduce_scatter)
                              .set("all_gather_bytes_per_second", setting.link.all_gather)
                              .set("latency_seconds", setting.link.latency)));
  }
  Json results = Json::array();
  for (const BenchResult& result : report.results) {
    const auto ranks = static_cast<double>(setting.ranks);
    Json entry = Json::object();
    entry.set("name", result.name)
        .set("shape", result.shape)
        .set("seconds", result.timing.median)
        .set("fastest", result.timing.fastest)
        .set("lower_quartile", result.timing.lower)
        .set("upper_quartile", result.timing.upper)
        .set("runs", result.timing.runs)
        .set("floor_bytes", result.floor.bytes * ranks)
        .set("floor_operations", result.floor.operations * ranks)
        .set("share_of_ceiling", share(result, setting));
    results.add(std::move(entry));
  }
  Json json = Json::object();
  json.set("polymoe", version())
      .set("git_revision", git_revision())
      .set("parameters", report.plan.total_parameters)
      .set("machine", std::move(machine))
      .set("results", std::move(results));
  if (report.step) {
    Json seconds = Json::object();
    for (std::size_t i = 0; i < report.step->seconds.size(); ++i)
      seconds.set(name_of(static_cast<Phase>(i)), report.step->seconds[i]);
    Json step = Json::object();
    step.set("tokens_per_second", report.step->tokens_per_second)
        .set("passes", shares_of(config, setting.ranks).passes)
        .set("seconds", std::move(seconds))
        .set("peak_bytes", report.step->peak)
        .set("peak_bytes_before_model", report.step->peak_before)
        .set("planned_bytes", report.plan.device_total());
    if (report.step->exchange.transfers > 0)
      step.set("exchange", exchange_json(report.step->exchange));
    json.set("step", std::move(step));
  }
  return std::move(json.set("config", to_ini(config)));
}

}  // namespace polymoe
