// SPDX-License-Identifier: Apache-2.0
#include "launch/data/token_data.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"
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

Interleaving::Interleaving(const std::vector<double>& weights, std::uint64_t seed) {
  constexpr double unit = 4294967296.0;
  const RandomStream phases(seed, "data.interleaving");
  double rest = 0.0;
  for (const double weight : weights) rest += weight;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const bool last = i + 1 == weights.size();
    const double share = last ? 1.0 : std::clamp(weights[i] / rest, 0.0, 1.0);
    splits_.push_back(
        {static_cast<std::uint64_t>(std::llround(share * unit)), phases.bits(i) >> 32});
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

namespace {

std::vector<double> weights_of(const std::vector<WeightedFile>& files) {
  std::vector<double> weights;
  for (const WeightedFile& file : files) weights.push_back(file.weight);
  return weights;
}

}  // namespace

TokenData::TokenData(const DataConfig& config, std::int64_t context, std::uint64_t seed)
    : context_(context), interleaving_(weights_of(config.train), seed) {
  if (config.train.empty()) throw InvalidArgument("data.train: must name a token file");
  const RandomStream keys(seed, "data.order");
  for (std::size_t i = 0; i < config.train.size(); ++i) {
    files_.push_back(TokenFile::open(config.train[i].path, config.token_bytes));
    const TokenFile& file = files_.back();
    windows_.push_back((file.tokens() - 1) / context);
    keys_.push_back(keys.bits(i));
    if (windows_.back() < 1)
      throw InputFileError(file.path().string(),
                           "has " + std::to_string(file.tokens()) +
                               " tokens; a sample of model.context = " + std::to_string(context) +
                               " needs " + std::to_string(context + 1));
  }
}

std::int64_t TokenData::tokens() const {
  std::int64_t total = 0;
  for (const TokenFile& file : files_) total += file.tokens();
  return total;
}

void TokenData::check_vocabulary(std::int64_t vocab) const {
  for (const TokenFile& file : files_) file.check_vocabulary(vocab);
}

void TokenData::sample(std::int64_t index, std::int32_t* tokens, std::int32_t* targets) const {
  const auto [source, ordinal] = interleaving_(index);
  const std::int64_t windows = windows_[source];
  const Permutation order(windows, keys_[source], static_cast<std::uint64_t>(ordinal / windows));
  const std::int64_t begin = order(ordinal % windows) * context_;
  files_[source].read(begin, context_, tokens);
  files_[source].read(begin + 1, context_, targets);
}

}  // namespace polymoe
