// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace polymoe {

std::vector<std::string> SamplingOptions::violations() const {
  std::vector<std::string> lines;
  if (!(temperature >= 0.0 && std::isfinite(temperature)))
    lines.push_back(fmt::format("--temperature = {}: must be finite and at least 0", temperature));
  if (top_k < 0) lines.push_back(fmt::format("--top-k = {}: must be at least 0", top_k));
  if (!(top_p > 0.0 && top_p <= 1.0))
    lines.push_back(fmt::format("--top-p = {}: must be above 0 and at most 1", top_p));
  return lines;
}

Sampler::Sampler(const SamplingOptions& options, std::uint64_t text)
    : options_(options),
      random_(options.seed, text == 0 ? "generate" : fmt::format("generate/{}", text)) {
  if (const auto lines = options.violations(); !lines.empty())
    throw InvalidArgument(fmt::format("{}", fmt::join(lines, "; ")));
}

std::int64_t Sampler::draw(std::span<const float> logits) {
  if (logits.empty()) throw Error("no logits to draw a token from");
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (!std::isfinite(logits[i]))
      throw NotFiniteError(
          fmt::format("the logit of token {} is {}: the model's values are not finite", i,
                      std::isnan(logits[i]) ? "nan" : "infinite"));
  const double uniform = random_.uniform(draws_++);
  if (options_.temperature == 0.0)
    return std::max_element(logits.begin(), logits.end()) - logits.begin();

  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto before = [&](std::int64_t a, std::int64_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  auto kept = order_.size();
  if (options_.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(options_.top_k));
  std::partial_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(kept),
                    order_.end(), before);

  const double largest = logits[static_cast<std::size_t>(order_.front())];
  weights_.resize(kept);
  double sum = 0.0;
  for (std::size_t i = 0; i < kept; ++i) {
    const double logit = logits[static_cast<std::size_t>(order_[i])];
    weights_[i] = std::exp((logit - largest) / options_.temperature);
    sum += weights_[i];
  }
  if (options_.top_p < 1.0) {
    const double enough = options_.top_p * sum;
    sum = 0.0;
    for (std::size_t i = 0; i < kept; ++i) {
      sum += weights_[i];
      if (sum >= enough) kept = i + 1;
    }
  }

  double rest = uniform * sum;
  for (std::size_t i = 0; i < kept; ++i) {
    rest -= weights_[i];
    if (rest < 0.0) return order_[i];
  }
  return order_[kept - 1];  // rounding used up the last of the sum
}

}  // namespace polymoe
