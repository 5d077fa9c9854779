// SPDX-License-Identifier: Apache-2.0
#include "launch/data/sampled_texts.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/random.h"

namespace polymoe {

void SampledTexts::add(std::string text) {
  const RandomStream random(seed_, "tokenize.vocabulary_sample");
  const std::uint64_t rank = random.bits(static_cast<std::uint64_t>(seen_++));
  if (text.empty() || rank > threshold_) return;
  bytes_ += static_cast<std::int64_t>(text.size());
  kept_.push_back({rank, std::move(text)});
  while (bytes_ > most_bytes_ && kept_.size() > 1) halve();
}

void SampledTexts::halve() {
  threshold_ /= 2;
  std::erase_if(kept_, [&](const Kept& kept) {
    if (kept.rank <= threshold_) return false;
    bytes_ -= static_cast<std::int64_t>(kept.text.size());
    return true;
  });
}

std::vector<std::string> SampledTexts::take() const {
  std::vector<std::string> texts;
  for (const Kept& kept : kept_) texts.push_back(kept.text);
  return texts;
}

}  // namespace polymoe
