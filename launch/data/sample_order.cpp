// SPDX-License-Identifier: Apache-2.0
#include "launch/data/sample_order.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/random.h"

namespace polymoe {

Permutation::Permutation(std::int64_t size, std::uint64_t key, std::uint64_t epoch)
    : size_(static_cast<std::uint64_t>(size)), key_(key), epoch_(epoch) {
  while (half_bits_ < 31 && (std::uint64_t{1} << (2 * half_bits_)) < size_) ++half_bits_;
}

std::uint64_t Permutation::encrypt(std::uint64_t value) const {
  constexpr std::uint64_t rounds = 6;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = value >> half_bits_, right = value & mask;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    const std::uint64_t mixed = philox(key_, epoch_ * rounds + round, right)[0] & mask;
    const std::uint64_t next = left ^ mixed;
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

std::int64_t Permutation::operator()(std::int64_t index) const {
  auto value = static_cast<std::uint64_t>(index);
  do value = encrypt(value);
  while (value >= size_);
  return static_cast<std::int64_t>(value);
}

std::int64_t Interleaving::Split::kept(std::int64_t numbers) const {
  // floor(numbers * share + phase) with 2^32 as the unit, in parts that fit 64 bits.
  const auto n = static_cast<std::uint64_t>(numbers);
  const std::uint64_t low = (n & 0xffffffffU) * share;
  const std::uint64_t carry = (low & 0xffffffffU) + phase;
  return static_cast<std::int64_t>((n >> 32) * share + (low >> 32) + (carry >> 32));
}

Interleaving::Interleaving(const std::vector<double>& weights, std::uint64_t seed,
                           std::uint64_t number) {
  constexpr double unit = 4294967296.0;
  const RandomStream phases(seed, "data.interleaving");
  double rest = 0.0;
  for (const double weight : weights) rest += weight;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const bool last = i + 1 == weights.size();
    const double share = last ? 1.0 : std::clamp(weights[i] / rest, 0.0, 1.0);
    splits_.push_back({static_cast<std::uint64_t>(std::llround(share * unit)),
                       phases.bits(number * weights.size() + i) >> 32});
    rest -= weights[i];
  }
}

Interleaving::Choice Interleaving::operator()(std::int64_t index) const {
  for (std::size_t source = 0; source + 1 < splits_.size(); ++source) {
    const std::int64_t before = splits_[source].kept(index);
    if (splits_[source].kept(index + 1) > before) return {source, before};
    index -= before;
  }
  return {splits_.size() - 1, index};
}

std::vector<std::int64_t> Interleaving::counts(std::int64_t numbers) const {
  std::vector<std::int64_t> counts;
  for (const Split& split : splits_) {
    counts.push_back(counts.size() + 1 < splits_.size() ? split.kept(numbers) : numbers);
    numbers -= counts.back();
  }
  return counts;
}

}  // namespace polymoe
