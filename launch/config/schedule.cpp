// SPDX-License-Identifier: Apache-2.0
#include "launch/config/schedule.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>
#include <string>
#include <string_view>

#include "launch/config/config.h"
#include "launch/config/values.h"
#include "runtime/error.h"

namespace polymoe {

std::optional<Duration> Duration::parse(std::string_view text) {
  text = trim(text);
  Duration duration;
  const auto without = [&](std::string_view suffix) {
    if (!text.ends_with(suffix)) return false;
    text = trim(text.substr(0, text.size() - suffix.size()));
    return true;
  };
  if (without("%")) {
    const auto percent = parse_real(text);
    if (!percent || *percent < 0.0 || *percent > 100.0) return std::nullopt;
    duration.unit_ = Unit::percent;
    duration.percent_ = *percent;
    duration.text_ = std::string(text) + "%";
    return duration;
  }
  if (without("tokens"))
    duration.unit_ = Unit::tokens;
  else
    without("steps");
  const auto count = parse_count(text);
  if (!count || *count < 0) return std::nullopt;
  duration.count_ = *count;
  duration.text_ = std::string(text) + (duration.unit_ == Unit::tokens ? " tokens" : "");
  return duration;
}

std::int64_t Duration::steps(std::int64_t steps, std::int64_t tokens_per_step) const {
  switch (unit_) {
    case Unit::tokens:
      return count_ / tokens_per_step + (count_ % tokens_per_step != 0 ? 1 : 0);
    case Unit::percent:
      return static_cast<std::int64_t>(std::ceil(percent_ * static_cast<double>(steps) / 100.0));
    case Unit::steps:
      break;
  }
  return count_;
}

LearningRate::LearningRate(const OptimizerConfig& config, std::int64_t steps,
                           std::int64_t tokens_per_step)
    : schedule_(config.schedule), lr_(config.lr), min_lr_(config.min_lr), steps_(steps) {
  const auto steps_of = [&](const char* key, const std::string& text) {
    const auto duration = Duration::parse(text);
    if (!duration)
      throw InvalidArgument(std::string(key) + " = " + text + ": must be " + Duration::allowed);
    return duration->steps(steps, tokens_per_step);
  };
  warmup_ = steps_of("optimizer.warmup", config.warmup);
  decay_ = schedule_ == Schedule::wsd ? steps_of("optimizer.decay", config.decay) : 0;
  if (schedule_ == Schedule::wsd && warmup_ + decay_ > steps)
    throw InvalidArgument("optimizer.decay = " + config.decay + ": its " + std::to_string(decay_) +
                          " steps and the " + std::to_string(warmup_) +
                          " of warm-up must not exceed train.steps (" + std::to_string(steps) +
                          ")");
}

double LearningRate::at(std::int64_t step) const {
  step = std::clamp<std::int64_t>(step, 1, std::max<std::int64_t>(steps_, 1));
  if (step <= warmup_) return lr_ * static_cast<double>(step) / static_cast<double>(warmup_);
  const double t = static_cast<double>(step - warmup_) / static_cast<double>(steps_ - warmup_);
  switch (schedule_) {
    case Schedule::cosine:
      return min_lr_ + (lr_ - min_lr_) * 0.5 * (1.0 + std::cos(std::numbers::pi * t));
    case Schedule::linear:
      return min_lr_ + (lr_ - min_lr_) * (1.0 - t);
    case Schedule::constant:
      return lr_;
    case Schedule::wsd:
      break;
  }
  if (step <= steps_ - decay_) return lr_;
  return min_lr_ +
         (lr_ - min_lr_) * static_cast<double>(steps_ - step) / static_cast<double>(decay_);
}

}  // namespace polymoe
