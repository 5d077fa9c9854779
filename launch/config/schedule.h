// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "launch/config/config.h"

namespace polymoe {

/// A length of training: "100" steps, "620M tokens" (or "620Mtokens"), or "20%" of the run.
class Duration {
 public:
  static constexpr const char* allowed =
      "a length >= 0: \"100\" steps, \"620M tokens\", or \"20%\" of train.steps (at most 100%)";

  /// Nothing if the text is not a duration.
  static std::optional<Duration> parse(std::string_view text);
  /// Steps of `tokens_per_step` tokens in a run of `steps`, rounded up.
  std::int64_t steps(std::int64_t steps, std::int64_t tokens_per_step) const;
  /// As it was spelled, blanks normalised.
  const std::string& text() const { return text_; }

 private:
  enum class Unit : std::uint8_t { steps, tokens, percent };
  Unit unit_ = Unit::steps;
  std::int64_t count_ = 0;
  double percent_ = 0.0;
  std::string text_;
};

/// The learning rate of each step of a run.
///
/// Steps count from 1 to S. Through the W steps of warm-up, lr(s) = lr * s / W. After that, with
/// t = (s - W) / (S - W) in (0, 1]:
///   cosine    min_lr + (lr - min_lr) * (1 + cos(pi t)) / 2
///   linear    min_lr + (lr - min_lr) * (1 - t)
///   constant  lr
///   wsd       lr up to step S - D, then min_lr + (lr - min_lr) * (S - s) / D
/// so that all but `constant` end at lr(S) = min_lr. Steps beyond S keep lr(S). With W >= S, as in
/// a short trial of a long run's configuration, the run ends within its warm-up. Source of wsd:
/// MiniCPM, arXiv:2404.06395.
class LearningRate {
 public:
  /// Throws InvalidArgument if wsd's decay does not fit into `steps` behind the warm-up.
  LearningRate(const OptimizerConfig& config, std::int64_t steps, std::int64_t tokens_per_step);
  double at(std::int64_t step) const;
  std::int64_t warmup_steps() const { return warmup_; }

 private:
  Schedule schedule_;
  double lr_, min_lr_;
  std::int64_t steps_, warmup_, decay_;
};

}  // namespace polymoe
