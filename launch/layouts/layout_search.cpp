// SPDX-License-Identifier: Apache-2.0
#include "launch/layouts/layout_search.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/values.h"
#include "launch/layouts/measured_step.h"
#include "launch/layouts/step_model.h"
#include "launch/step/memory_plan.h"
#include "moe/language_model.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

constexpr double gibi = 1024.0 * 1024.0 * 1024.0;

const char* name_of(Recompute recompute) {
  switch (recompute) {
    case Recompute::none:
      return "none";
    case Recompute::activation:
      return "activation";
    case Recompute::block:
      break;
  }
  return "block";
}

std::string micro_batch_text(const Config& config) {
  return config.train.micro_batch > 0 ? std::to_string(config.train.micro_batch) : "auto";
}

class Searcher {
 public:
  Searcher(const StepModel& model, const LayoutSearch& search) : model_(model), search_(search) {}

  std::vector<RankedLayout> run() {
    for (const int expert : expert_sizes()) {
      for (const Recompute recompute :
           values<Recompute>("train.recompute", search_.config.train.recompute,
                             {Recompute::none, Recompute::activation, Recompute::block})) {
        for (const DType moments :
             values<DType>("optimizer.moment_dtype", search_.config.optimizer.adamw.moment_dtype,
                           {DType::f32, DType::bf16})) {
          Config config = search_.config;
          config.parallel.expert = expert;
          config.train.recompute = recompute;
          config.optimizer.adamw.moment_dtype = moments;
          try_micro_batches(config);
        }
      }
    }
    if (found_.empty() && violations_)
      throw InvalidArgument(fmt::format("--ranks {}: {}", search_.ranks, *violations_));
    if (found_.empty())
      throw InvalidArgument(fmt::format(
          "--ranks {}: no layout fits {:.2f} GiB of a rank; the smallest needs {:.2f} GiB",
          search_.ranks, static_cast<double>(search_.memory) / gibi,
          static_cast<double>(least_) / gibi));
    std::stable_sort(found_.begin(), found_.end(),
                     [](const auto& a, const auto& b) { return a.step.total() < b.step.total(); });
    return std::move(found_);
  }

 private:
  bool is_fixed(const char* key) const {
    return std::find(search_.fixed.begin(), search_.fixed.end(), key) != search_.fixed.end();
  }

  template <class Value>
  std::vector<Value> values(const char* key, Value own, const std::vector<Value>& all) const {
    return is_fixed(key) ? std::vector<Value>{own} : all;
  }

  std::vector<int> expert_sizes() const {
    const auto experts = search_.config.model.moe.experts;
    std::vector<int> sizes;
    for (int size = 1; size <= search_.ranks; ++size)
      if (search_.ranks % size == 0 && (size == 1 || (experts > 0 && experts % size == 0)))
        sizes.push_back(size);
    return values<int>("parallel.expert", search_.config.parallel.expert, sizes);
  }

  std::vector<std::int64_t> micro_batches() const {
    const std::int64_t batch = search_.config.train.global_batch, ranks = search_.ranks;
    std::vector<std::int64_t> sizes;
    for (std::int64_t size = 1; size * ranks <= batch; ++size)
      if (batch % (size * ranks) == 0) sizes.push_back(size);
    // Uneven shares are found by the automatic one alone.
    if (sizes.empty()) sizes.push_back(0);
    return values<std::int64_t>("train.micro_batch", search_.config.train.micro_batch, sizes);
  }

  /// Larger ones take more memory: the first that does not fit is the last that is tried.
  void try_micro_batches(Config config) {
    const DeviceType backend = model_.on_gpu() ? DeviceType::cuda : DeviceType::cpu;
    const MeasuredStep& measured = model_.nearest(search_.ranks);
    const int cores = measured.ranks * measured.threads_per_rank;
    const int threads = config.run.threads > 0
                            ? config.run.threads
                            : std::max(cores / std::min(search_.ranks, search_.ranks_per_node), 1);
    for (const std::int64_t micro_batch : micro_batches()) {
      config.train.micro_batch = micro_batch;
      RankedLayout ranked{.layout = {.config = config,
                                     .ranks = search_.ranks,
                                     .ranks_per_node = search_.ranks_per_node},
                          .step = {},
                          .extrapolations = {}};
      try {
        ranked.layout.plan =
            plan_memory(config, {.ranks = search_.ranks, .threads = threads, .backend = backend});
      } catch (const InvalidArgument& error) {
        violations_ = error.what();
        return;
      }
      least_ = std::min(least_, ranked.memory());
      if (ranked.memory() > search_.memory) return;
      ranked.step = model_.estimate(ranked.layout);
      ranked.extrapolations = model_.extrapolations(ranked.layout);
      found_.push_back(std::move(ranked));
    }
  }

  const StepModel& model_;
  const LayoutSearch& search_;
  std::vector<RankedLayout> found_;
  std::optional<std::string> violations_;
  std::size_t least_ = std::numeric_limits<std::size_t>::max();
};

}  // namespace

const std::vector<std::string>& layout_keys() {
  static const std::vector<std::string> keys = {"parallel.expert", "train.micro_batch",
                                                "train.recompute", "optimizer.moment_dtype"};
  return keys;
}

double RankedLayout::tokens_per_second() const {
  const Config& config = layout.config;
  return static_cast<double>(config.train.global_batch * config.model.context) / step.total();
}

std::size_t RankedLayout::memory() const {
  return layout.config.run.device == "cuda" ? layout.plan.device_total() : layout.plan.rank_total();
}

std::vector<RankedLayout> search_layouts(const StepModel& model, const LayoutSearch& search) {
  return Searcher(model, search).run();
}

std::string layout_table(const std::vector<RankedLayout>& layouts, std::size_t most) {
  std::string text = fmt::format(
      "{:>6} {:>7} {:>6} {:<11}{:<8}{:>8} {:>10} {:>9} {:>9} {:>10} {:>10} {:>7} {:>12}\n", "ranks",
      "expert", "micro", "recompute", "moments", "GiB", "step s", "compute", "exchange",
      "reduction", "optimizer", "other", "tokens/s");
  std::vector<std::string> reasons;
  for (std::size_t i = 0; i < std::min(most, layouts.size()); ++i) {
    const RankedLayout& one = layouts[i];
    const Config& config = one.layout.config;
    const double total = one.step.total();
    const auto share = [&](double seconds) {
      return fmt::format("{:.1f} %", 100.0 * seconds / total);
    };
    text += fmt::format(
        "{:>6} {:>7} {:>6} {:<11}{:<8}{:>8.2f} {:>10.4g} {:>9} {:>9} {:>10} {:>10} {:>7} "
        "{:>12}{}\n",
        one.layout.ranks, config.parallel.expert, micro_batch_text(config),
        name_of(config.train.recompute),
        config.optimizer.adamw.moment_dtype == DType::f32 ? "f32" : "bf16",
        static_cast<double>(one.memory()) / gibi, total, share(one.step.compute),
        share(one.step.exchange), share(one.step.reduction), share(one.step.optimizer),
        share(one.step.other), with_separators(static_cast<std::int64_t>(one.tokens_per_second())),
        one.extrapolations.empty() ? "" : " *");
    for (const std::string& reason : one.extrapolations)
      if (std::find(reasons.begin(), reasons.end(), reason) == reasons.end())
        reasons.push_back(reason);
  }
  if (layouts.size() > most)
    text += fmt::format("and {} slower ones that fit\n", layouts.size() - most);
  for (const std::string& reason : reasons) text += "* extrapolated: " + reason + "\n";
  return text;
}

Json layouts_json(const std::vector<RankedLayout>& layouts) {
  Json list = Json::array();
  for (const RankedLayout& one : layouts) {
    const Config& config = one.layout.config;
    Json reasons = Json::array();
    for (const std::string& reason : one.extrapolations) reasons.add(reason);
    Json seconds = Json::object();
    seconds.set("compute", one.step.compute)
        .set("exchange", one.step.exchange)
        .set("reduction", one.step.reduction)
        .set("optimizer", one.step.optimizer)
        .set("other", one.step.other)
        .set("total", one.step.total());
    list.add(std::move(
        Json::object()
            .set("ranks", one.layout.ranks)
            .set("expert_parallel", config.parallel.expert)
            .set("micro_batch", config.train.micro_batch)
            .set("recompute", name_of(config.train.recompute))
            .set("moment_dtype", config.optimizer.adamw.moment_dtype == DType::f32 ? "f32" : "bf16")
            .set("bytes_of_rank", one.memory())
            .set("seconds", std::move(seconds))
            .set("tokens_per_second", one.tokens_per_second())
            .set("extrapolated", std::move(reasons))));
  }
  return list;
}

std::vector<std::string> layout_overrides(const EstimatedLayout& layout) {
  const Config& config = layout.config;
  return {fmt::format("--parallel.expert={}", config.parallel.expert),
          fmt::format("--train.micro_batch={}", config.train.micro_batch),
          fmt::format("--train.recompute={}", name_of(config.train.recompute)),
          fmt::format("--optimizer.moment_dtype={}",
                      config.optimizer.adamw.moment_dtype == DType::f32 ? "f32" : "bf16")};
}

}  // namespace polymoe
