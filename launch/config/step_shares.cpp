// SPDX-License-Identifier: Apache-2.0
#include "launch/config/step_shares.h"

#include <algorithm>
#include <cstdint>

#include "launch/config/config.h"
#include "runtime/rounding.h"

namespace polymoe {
namespace {

// Beyond that a CPU's products gain nothing.
constexpr std::int64_t tokens_of_a_pass = 4096;

}  // namespace

SequenceRange StepShares::of(std::int64_t pass, std::int64_t rank) const {
  const std::int64_t slots = ranks * passes, slot = pass * ranks + rank;
  const auto begin = [&](std::int64_t i) { return divide_up(global_batch * i, slots); };
  return {.first = begin(slot), .count = begin(slot + 1) - begin(slot)};
}

std::int64_t StepShares::largest() const { return of(0, 0).count; }

std::int64_t sequences_of(std::int64_t tokens, const Config& config) {
  return std::max<std::int64_t>(tokens / std::max<std::int64_t>(config.model.context, 1), 1);
}

StepShares shares_of(const Config& config, int ranks) {
  const TrainConfig& train = config.train;
  StepShares shares{.global_batch = train.global_batch, .ranks = ranks};
  if (train.micro_batch > 0) {
    shares.passes = divide_up(train.global_batch, train.micro_batch * ranks);
    return shares;
  }
  const std::int64_t limit = train.micro_batch_limit > 0 ? train.micro_batch_limit
                                                         : sequences_of(tokens_of_a_pass, config);
  const std::int64_t fewest = divide_up(train.global_batch, limit * ranks);
  shares.passes = fewest;
  while (!shares.even() && shares.passes < 2 * fewest) ++shares.passes;
  if (!shares.even()) shares.passes = fewest;
  return shares;
}

}  // namespace polymoe
