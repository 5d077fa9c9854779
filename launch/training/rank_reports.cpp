// SPDX-License-Identifier: Apache-2.0
#include "launch/training/rank_reports.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/machine/machine_state.h"
#include "launch/training/run_directory.h"
#include "launch/training/step_metrics.h"
#include "launch/training/waiting.h"
#include "moe/exchange_traffic.h"
#include "moe/language_model.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/files/json.h"
#include "runtime/log.h"
#include "runtime/stream.h"
#include "runtime/timeline.h"

namespace polymoe {
namespace {

constexpr std::size_t most_named = 3;
constexpr double notably_slow = 1.05;  // times the median
constexpr double much_lost = 0.1;      // of the time at work

double seconds_of(const StepMetrics& metrics, Phase phase) {
  return metrics.seconds[static_cast<std::size_t>(phase)];
}

Json numbers(const std::vector<RankTimes>& ranks, double RankTimes::*member) {
  Json array = Json::array();
  for (const RankTimes& rank : ranks) array.add(rank.*member);
  return array;
}

}  // namespace

std::string RankReport::text() const {
  std::string line = fmt::format(
      "steps {} to {}, seconds of the mean rank a step: {:.4g} at work, {:.4g} exposed exchange, "
      "{:.4g} waiting for others ({:.4g} by routing, {:.4g} by hardware)",
      first_step, last_step, waiting.computing, waiting.exposed_exchange, waiting.waiting,
      waiting.routing_tax, waiting.hardware_tax);
  std::vector<std::size_t> order(ranks.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(),
                           [&](std::size_t i) { return waiting.slowness[i]; });
  std::vector<std::string> slow;
  for (const std::size_t rank : order) {
    if (waiting.slowness[rank] < notably_slow || slow.size() == most_named) break;
    slow.push_back(fmt::format("rank {} on {}, {:.2f} times the median{}", rank, hosts[rank],
                               waiting.slowness[rank],
                               machines[rank].empty() ? "" : " (" + machines[rank] + ")"));
  }
  if (!slow.empty()) return line + fmt::format("; slowest for its rows: {}", fmt::join(slow, "; "));
  const std::size_t first = order.front();
  if (!machines[first].empty()) line += fmt::format("; rank {}: {}", first, machines[first]);
  return line;
}

bool RankReport::is_slow_hardware() const {
  return waiting.hardware_tax > much_lost * waiting.computing &&
         *std::ranges::max_element(waiting.slowness) > 1.0 + much_lost;
}

RankReports::RankReports(const Config& config, const ProcessMesh& mesh, Device device)
    : config_(config),
      mesh_(mesh),
      device_(device),
      log_(mesh.world().size() == 1 ? Log::alone : mesh.world().rank(), run_log(config.run.dir)),
      load_(mesh.expert_parallel()) {}

void RankReports::step_done(StepMetrics& metrics, LanguageModel& model, Stream& stream) {
  const std::int64_t every = config_.run.report_ranks;
  if (every == 0) return;
  const double waiting =
      seconds_of(metrics, Phase::exchange_wait) + seconds_of(metrics, Phase::gradient_reduction);
  own_.waiting += waiting;
  own_.computing += std::accumulate(metrics.seconds.begin(), metrics.seconds.end(), 0.0) - waiting;
  load_.add(metrics.routing);
  ++steps_;
  if (metrics.step % every == 0) report(metrics, model, stream);
}

void RankReports::report(StepMetrics& metrics, LanguageModel& model, Stream& stream) {
  for (const ExchangeTraffic& layer : model.take_traffic())
    own_.rows += static_cast<double>(layer.expert_rows);
  Communicator& world = mesh_.world();
  const OwnedTensor all({world.size(), 3}, DType::f64, Device::cpu());
  const auto steps = static_cast<double>(steps_);
  double* const mine = all->data<double>() + 3 * static_cast<std::size_t>(world.rank());
  mine[0] = own_.computing / steps;
  mine[1] = own_.waiting / steps;
  mine[2] = own_.rows / steps;
  world.all_gather(*all, stream);
  const MachineState state = machine_state(device_);
  const auto states = gather_text(state.to_json().dump(), world);
  const auto texts = gather_text(state.text(), world);
  const auto hosts = gather_text(state.host, world);
  if (world.rank() == 0) {
    RankReport report{.first_step = metrics.step - steps_ + 1,
                      .last_step = metrics.step,
                      .ranks = {},
                      .machines = texts,
                      .hosts = hosts,
                      .waiting = {}};
    for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
      const double* const values = all->data<double>() + 3 * rank;
      report.ranks.push_back({.computing = values[0], .waiting = values[1], .rows = values[2]});
    }
    report.waiting =
        explain_waiting(report.ranks, expert_share(config_.model), load_.fullest_over_mean());
    metrics.waiting = report.waiting;
    metrics.ranks = Json::object();
    metrics.ranks.set("steps", steps_)
        .set("computing", numbers(report.ranks, &RankTimes::computing))
        .set("waiting", numbers(report.ranks, &RankTimes::waiting))
        .set("rows", numbers(report.ranks, &RankTimes::rows));
    Json slowness = Json::array(), machines = Json::array();
    for (const double value : report.waiting.slowness) slowness.add(value);
    for (const std::string& one : states) machines.add(parse_json(one, "state of a machine"));
    metrics.ranks.set("slowness", std::move(slowness)).set("machines", std::move(machines));
    tell(report);
  }
  own_ = {};
  load_ = RankLoad(mesh_.expert_parallel());
  steps_ = 0;
}

void RankReports::tell(const RankReport& report) {
  if (report.is_slow_hardware() && quiet_reports_ == 0) {
    log_.warning(report.text());
    quiet_reports_ = 9;
    return;
  }
  quiet_reports_ = std::max<std::int64_t>(quiet_reports_ - 1, 0);
  append_dated_line(run_log(config_.run.dir), report.text());
}

}  // namespace polymoe
