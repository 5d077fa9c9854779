// SPDX-License-Identifier: Apache-2.0
#include "launch/training/step_guard.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include "launch/config/config.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

constexpr std::int64_t memory_steps = 20;  // of the mean loss
constexpr double sound_nats = 0.2;         // above its lowest
// A deviation is taken for at least this share of the mean: norms that hardly differ make no
// spikes.
constexpr double least_deviation = 0.02;

}  // namespace

StepVerdict StepGuard::judge(double loss, double gradient_norm) {
  if (!std::isfinite(loss) || !std::isfinite(gradient_norm)) {
    ++skipped_;
    ++not_finite_in_a_row_;
    return {.kind = StepVerdict::Kind::not_finite, .z_score = {}};
  }
  not_finite_in_a_row_ = 0;
  losses_ = std::min(losses_ + 1, memory_steps);
  mean_loss_ += (loss - mean_loss_) / static_cast<double>(losses_);
  // Until the mean is one of as many steps, a few easy ones say nothing.
  if (losses_ < memory_steps || mean_loss_ < lowest_mean_loss_) lowest_mean_loss_ = mean_loss_;
  const StepVerdict verdict = judge_norm(gradient_norm);
  if (verdict.skipped()) ++skipped_;
  return verdict;
}

StepVerdict StepGuard::judge_norm(double gradient_norm) {
  if (config_.spike == SpikeAction::off) return {};
  const auto window = static_cast<std::size_t>(config_.spike_window);
  // A resumed run may have been given a shorter window.
  while (norms_.size() > window) norms_.pop_front();
  if (norms_.size() < window) {
    norms_.push_back(gradient_norm);
    return {};
  }
  const auto count = static_cast<double>(window);
  double mean = 0.0, variance = 0.0;
  for (const double norm : norms_) mean += norm / count;
  for (const double norm : norms_) variance += (norm - mean) * (norm - mean) / count;
  const double deviation = std::max(std::sqrt(variance), least_deviation * mean);
  const double highest = mean + config_.spike_z * deviation;
  norms_.pop_front();
  norms_.push_back(std::min(gradient_norm, highest));
  StepVerdict verdict{.z_score = deviation > 0.0 ? (gradient_norm - mean) / deviation : 0.0};
  if (gradient_norm <= highest) return verdict;
  verdict.kind =
      config_.spike == SpikeAction::skip ? StepVerdict::Kind::spike : StepVerdict::Kind::clip;
  verdict.clip_to = mean;
  return verdict;
}

bool StepGuard::sound() const {
  return not_finite_in_a_row_ == 0 && mean_loss_ <= lowest_mean_loss_ + sound_nats;
}

Json StepGuard::state() const {
  Json state = Json::object();
  state.set("skipped", skipped_);
  state.set("not_finite_in_a_row", not_finite_in_a_row_);
  state.set("losses", losses_);
  state.set("mean_loss", mean_loss_);
  state.set("lowest_mean_loss", lowest_mean_loss_);
  Json norms = Json::array();
  for (const double norm : norms_) norms.add(norm);
  state.set("norms", std::move(norms));
  return state;
}

void StepGuard::restore(const Json& state) {
  if (state.is_null()) return;
  skipped_ = state.at("skipped").as_integer(0);
  not_finite_in_a_row_ = state.at("not_finite_in_a_row").as_integer(0);
  losses_ = state.at("losses").as_integer(0, memory_steps);
  mean_loss_ = state.at("mean_loss").as_number();
  lowest_mean_loss_ = state.at("lowest_mean_loss").as_number();
  norms_.clear();
  for (const Json& norm : state.at("norms").items()) norms_.push_back(norm.as_number());
}

}  // namespace polymoe
