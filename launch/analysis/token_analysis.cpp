// SPDX-License-Identifier: Apache-2.0
#include "launch/analysis/token_analysis.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/activation/activation.h"
#include "launch/analysis/expert_outputs.h"
#include "launch/analysis/host_rows.h"
#include "launch/data/token_rows.h"
#include "launch/step/token_batch.h"
#include "layers/batch.h"
#include "layers/feed_forward.h"
#include "moe/language_model.h"
#include "moe/model_config.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/error.h"
#include "runtime/files/token_file.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

constexpr int bins = 81;
constexpr std::size_t shown_tokens = 12;

/// Sums over the values of a layer. The range of the histogram is set by the first batch.
class ActivationSums {
 public:
  void add(const std::vector<float>& pre, const std::vector<float>& result, std::int64_t width,
           std::int64_t factor) {
    const std::int64_t rows = width > 0 ? static_cast<std::int64_t>(result.size()) / width : 0;
    if (!(reach_ > 0.0)) set_reach(pre);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t i = 0; i < width; ++i) {
        const double x = pre[static_cast<std::size_t>(row * factor * width + i)];
        sum_ += x;
        squares_ += x * x;
        ++count_;
        const double place = (x / reach_ + 1.0) / 2.0 * bins;
        if (!(place >= 0.0 && place < bins)) continue;
        const auto bin = static_cast<std::size_t>(place);
        ++counts_[bin];
        results_[bin] += result[static_cast<std::size_t>(row * width + i)];
      }
    }
  }

  LayerActivation finish(std::int64_t layer) const {
    LayerActivation activation{.layer = layer, .x = {}, .density = {}, .y = {}};
    const double width = 2.0 * reach_ / bins,
                 n = static_cast<double>(std::max<std::int64_t>(count_, 1));
    for (std::size_t bin = 0; bin < bins; ++bin) {
      const auto seen = static_cast<double>(counts_[bin]);
      activation.x.push_back(-reach_ + (static_cast<double>(bin) + 0.5) * width);
      activation.density.push_back(width > 0.0 ? seen / n / width : 0.0);
      activation.y.push_back(seen > 0.0 ? results_[bin] / seen
                                        : std::numeric_limits<double>::quiet_NaN());
    }
    activation.mean = sum_ / n;
    activation.deviation =
        std::sqrt(std::max(0.0, squares_ / n - activation.mean * activation.mean));
    return activation;
  }

 private:
  void set_reach(const std::vector<float>& pre) {
    double squares = 0.0;
    for (const float x : pre) squares += static_cast<double>(x) * static_cast<double>(x);
    constexpr double deviations = 5.0;
    reach_ = pre.empty()
                 ? 0.0
                 : deviations * std::sqrt(squares / static_cast<double>(pre.size()) + 1e-30);
  }

  double reach_ = 0.0, sum_ = 0.0, squares_ = 0.0;
  std::int64_t count_ = 0;
  std::vector<std::int64_t> counts_ = std::vector<std::int64_t>(bins, 0);
  std::vector<double> results_ = std::vector<double>(bins, 0.0);
};

class Looker {
 public:
  Looker(const ModelConfig& config, ExecutionContext& context)
      : config_(config),
        context_(context),
        activations_(static_cast<std::size_t>(config.layers)),
        routing_(static_cast<std::size_t>(config.layers)),
        token_counts_(static_cast<std::size_t>(config.layers)),
        outputs_(static_cast<std::size_t>(config.layers)) {
    result_.states = config.layers + 1;
    result_.similarity.assign(static_cast<std::size_t>(result_.states * result_.states), 0.0);
  }

  void begin(std::vector<std::int32_t> tokens) {
    tokens_ = std::move(tokens);
    states_.clear();
  }

  void see(const LayerObservation& seen) {
    std::vector<float> hidden = host_rows(seen.x, context_);
    if (seen.branch.defined()) {
      const std::vector<float> branch = host_rows(seen.branch, context_);
      for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] += branch[i];
    }
    normalize_rows(hidden, config_.hidden);
    states_.push_back(std::move(hidden));
    if (seen.layer < 0) return;  // the embedding
    const auto layer = static_cast<std::size_t>(seen.layer);
    const FeedForward::View inside = seen.feed_forward();
    activations_[layer].add(host_rows(inside.pre, context_), host_rows(inside.activated, context_),
                            inside.activated.dim(1),
                            pre_activation_factor(config_.activation.kind));
    if (inside.expert_ids.defined()) see_routing(seen.layer, inside.expert_ids);
    if (seen.experts != nullptr)
      outputs_[layer].add(*seen.experts, config_.moe.experts, inside.x, context_);
  }

  void end(double loss_sum) {
    const auto states = static_cast<std::size_t>(result_.states);
    for (std::size_t a = 0; a < states; ++a) {
      for (std::size_t b = 0; b <= a; ++b) {
        double sum = 0.0;
        for (std::size_t i = 0; i < states_[a].size(); ++i)
          sum += static_cast<double>(states_[a][i]) * static_cast<double>(states_[b][i]);
        result_.similarity[a * states + b] += sum;
      }
    }
    result_.tokens += static_cast<std::int64_t>(tokens_.size());
    result_.loss += loss_sum;
  }

  TokenAnalysis finish() {
    const auto states = static_cast<std::size_t>(result_.states);
    const auto tokens = static_cast<double>(result_.tokens);
    result_.loss /= tokens;
    for (std::size_t a = 0; a < states; ++a)
      for (std::size_t b = 0; b <= a; ++b)
        result_.similarity[b * states + a] = result_.similarity[a * states + b] /= tokens;
    for (std::size_t layer = 0; layer < activations_.size(); ++layer) {
      result_.activations.push_back(activations_[layer].finish(static_cast<std::int64_t>(layer)));
      if (routing_[layer].experts > 0) finish_routing(layer);
      if (outputs_[layer].tokens() == 0) continue;
      result_.output_tokens = outputs_[layer].tokens();
      result_.outputs.push_back(outputs_[layer].finish(static_cast<std::int64_t>(layer)));
    }
    return std::move(result_);
  }

 private:
  void see_routing(std::int64_t number, const Tensor& expert_ids) {
    const auto layer = static_cast<std::size_t>(number);
    LayerRouting& routing = routing_[layer];
    const std::int64_t experts = config_.moe.experts, top_k = expert_ids.dim(1);
    const auto count = static_cast<std::size_t>(experts), k = static_cast<std::size_t>(top_k);
    if (routing.experts == 0) {
      routing = {.layer = number, .experts = experts, .top_k = top_k};
      routing.expert_tokens.assign(count, 0);
      routing.together.assign(count * count, 0);
      token_counts_[layer].resize(count);
    }
    const std::vector<std::int32_t> ids = host_values<std::int32_t>(expert_ids, context_.stream);
    routing.choices.insert(routing.choices.end(), ids.begin(), ids.end());
    for (std::size_t t = 0; t < tokens_.size(); ++t) {
      for (std::size_t a = 0; a < k; ++a) {
        const auto expert = static_cast<std::size_t>(ids[t * k + a]);
        ++routing.expert_tokens[expert];
        ++token_counts_[layer][expert][tokens_[t]];
        for (std::size_t b = 0; b < k; ++b)
          ++routing.together[expert * count + static_cast<std::size_t>(ids[t * k + b])];
      }
    }
  }

  void finish_routing(std::size_t layer) {
    LayerRouting& routing = routing_[layer];
    double slots = 0.0;
    for (const std::int64_t tokens : routing.expert_tokens) slots += static_cast<double>(tokens);
    for (const std::int64_t tokens : routing.expert_tokens)
      if (tokens > 0) {
        const double share = static_cast<double>(tokens) / slots;
        routing.entropy -= share * std::log(share);
      }
    for (const auto& counts : token_counts_[layer]) {
      std::vector<std::pair<std::int32_t, std::int64_t>> list(counts.begin(), counts.end());
      std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) {
        return a.second != b.second ? a.second > b.second : a.first < b.first;
      });
      list.resize(std::min(list.size(), shown_tokens));
      routing.top_tokens.push_back(std::move(list));
    }
    result_.routing.push_back(std::move(routing));
  }

  const ModelConfig& config_;
  ExecutionContext& context_;
  std::vector<ActivationSums> activations_;
  std::vector<LayerRouting> routing_;  // of no experts where the layer is dense
  std::vector<std::vector<std::unordered_map<std::int32_t, std::int64_t>>> token_counts_;
  std::vector<ExpertOutputs> outputs_;
  std::vector<std::int32_t> tokens_;
  std::vector<std::vector<float>> states_;  // of the batch, rows of length one
  TokenAnalysis result_;
};

}  // namespace

TokenAnalysis analyze_tokens(LanguageModel& model, const TokenFile& file,
                             const TokenAnalysisOptions& options, ExecutionContext& context,
                             const ProgressOutput& output) {
  const std::int64_t length = model.config().context;
  const std::int64_t there = (file.tokens() - 1) / length;
  if (there < 1)
    throw InputFileError(file.path().string(),
                         fmt::format("has {} tokens: at least one window of {} is needed",
                                     file.tokens(), length + 1));
  const std::int64_t wanted = std::max<std::int64_t>(1, options.max_tokens / length);
  const std::int64_t per_batch = options.windows_per_batch > 0
                                     ? options.windows_per_batch
                                     : std::max<std::int64_t>(1, 4096 / length);
  const std::int64_t windows = std::min(there, wanted);
  Progress progress(output, {.what = "looking inside", .total = windows, .unit = "windows"});
  Looker looker(model.config(), context);
  for (std::int64_t first = 0; first < windows; first += per_batch) {
    const std::int64_t count = std::min(per_batch, windows - first);
    const Arena::Scope scope(context.arena);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(count * length));
    file.read(first * length, count * length, tokens.data());
    const auto fill = [&](const TokenRows& to) {
      std::copy(tokens.begin(), tokens.end(), to.tokens);
      file.read(first * length + 1, count * length, to.targets);
    };
    const TokenBatch batch = make_batch({.sequences = count, .length = length}, fill, context);
    looker.begin(tokens);
    const Tensor losses = model.observe(
        batch, [&](const LayerObservation& seen) { looker.see(seen); }, context);
    double sum = 0.0;
    for (const float loss : host_values<float>(losses, context.stream)) sum += loss;
    looker.end(sum);
    progress.advance(count);
  }
  return looker.finish();
}

std::vector<double> routing_saturation(const TokenAnalysis& before, const TokenAnalysis& after) {
  if (before.tokens != after.tokens || before.routing.size() != after.routing.size())
    throw InvalidArgument("--against: must be a checkpoint of the same model");
  std::vector<double> shares;
  for (std::size_t layer = 0; layer < after.routing.size(); ++layer) {
    const LayerRouting &a = before.routing[layer], &b = after.routing[layer];
    if (a.choices.size() != b.choices.size() || a.top_k != b.top_k)
      throw InvalidArgument("--against: must be a checkpoint of the same model");
    const auto k = static_cast<std::size_t>(b.top_k);
    std::int64_t common = 0;
    for (std::size_t t = 0; t < b.choices.size(); t += k)
      for (std::size_t i = 0; i < k; ++i)
        common +=
            std::count(a.choices.begin() + static_cast<std::ptrdiff_t>(t),
                       a.choices.begin() + static_cast<std::ptrdiff_t>(t + k), b.choices[t + i]);
    shares.push_back(static_cast<double>(common) / static_cast<double>(b.choices.size()));
  }
  return shares;
}

}  // namespace polymoe
