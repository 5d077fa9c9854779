// SPDX-License-Identifier: Apache-2.0
#include "launch/data/token_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "runtime/error.h"
#include "runtime/random.h"
#include "runtime/rounding.h"

namespace polymoe {

TokenData::TokenData(const DataConfig& config, const Settings& settings)
    : config_(config), settings_(settings) {
  if (config.train.empty()) throw InvalidArgument("data.train: must name a token file");
  open(config.train);
  for (const DataStage& stage : config.stages) open(stage.files);
  DataPosition position;
  for (std::size_t i = 0; i < files_.size(); ++i)
    position.files.push_back({.slot = static_cast<std::int64_t>(i), .start = 0});
  begin(position);
}

void TokenData::open(const std::vector<WeightedFile>& files) {
  const std::int64_t context = settings_.context;
  for (const WeightedFile& named : files) {
    if (std::find(names_.begin(), names_.end(), named.path) != names_.end()) continue;
    TokenFile file = TokenFile::open(named.path, config_.token_bytes);
    const std::int64_t windows = (file.tokens() - 1) / context;
    if (windows < 1)
      throw InputFileError(file.path().string(),
                           fmt::format("has {} tokens; a sample of model.context = {} needs {}",
                                       file.tokens(), context, context + 1));
    names_.push_back(named.path);
    windows_.push_back(windows);
    files_.push_back(std::move(file));
  }
}

/// Per file of the run; 0 for those that are not in the list.
std::vector<double> TokenData::shares_of_all(const std::vector<WeightedFile>& files) const {
  std::vector<std::size_t> numbers;
  std::vector<std::int64_t> sizes;
  for (const WeightedFile& file : files) {
    numbers.push_back(static_cast<std::size_t>(std::find(names_.begin(), names_.end(), file.path) -
                                               names_.begin()));
    sizes.push_back(windows_[numbers.back()]);
  }
  const std::vector<double> shares = shares_of(files, sizes, config_.weights);
  std::vector<double> all(names_.size(), 0.0);
  for (std::size_t i = 0; i < files.size(); ++i) all[numbers[i]] += shares[i];
  return all;
}

void TokenData::begin(const DataPosition& position) {
  position_ = position;
  Mixture::Settings mixture{.files = {},
                            .stages = {{.first = 0, .shares = shares_of_all(config_.train)}},
                            .linear = config_.stage_change == StageChange::linear,
                            .first = position.sample,
                            .last = settings_.samples,
                            .seed = settings_.seed};
  for (const DataStage& stage : config_.stages) {
    // The first sample that begins at the stage's token or behind it.
    const std::int64_t ahead = stage.tokens - position.tokens;
    const std::int64_t samples = ahead > 0 ? divide_up(ahead, context()) : -(-ahead / context());
    mixture.stages.push_back(
        {.first = position.sample + samples, .shares = shares_of_all(stage.files)});
  }
  const RandomStream keys(settings_.seed, "data.order");
  keys_.clear();
  for (std::size_t i = 0; i < names_.size(); ++i) {
    Mixture::File file{.name = names_[i], .start = position.files[i].start, .most = 0};
    for (const WeightedFile& cap : config_.max_epochs)
      if (cap.path == names_[i])
        file.most =
            std::max<std::int64_t>(1, std::llround(*cap.weight * static_cast<double>(windows_[i])));
    mixture.files.push_back(file);
    keys_.push_back(keys.bits(static_cast<std::uint64_t>(position.files[i].slot)));
  }
  mixture_ = Mixture(std::move(mixture));
}

bool TokenData::masked() const {
  return std::any_of(files_.begin(), files_.end(), [](const auto& file) { return file.masked(); });
}

std::int64_t TokenData::tokens() const {
  std::int64_t total = 0;
  for (const TokenFile& file : files_) total += file.tokens();
  return total;
}

void TokenData::sample(std::int64_t index, std::int32_t* tokens, std::int32_t* targets) const {
  const auto [source, ordinal] = mixture_(index);
  const std::int64_t windows = windows_[source];
  const Permutation order(windows, keys_[source], static_cast<std::uint64_t>(ordinal / windows));
  const std::int64_t begin = order(ordinal % windows) * context();
  const TokenFile& file = files_[source];
  file.read(begin, context(), tokens, settings_.vocab);
  file.read_targets(begin + 1, context(), targets, settings_.vocab);
}

}  // namespace polymoe
