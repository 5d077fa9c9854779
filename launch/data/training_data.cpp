// SPDX-License-Identifier: Apache-2.0
#include "launch/data/training_data.h"

#include <fmt/format.h>

#include <algorithm>

#include "launch/commands/first_rank.h"
#include "launch/config/values.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

constexpr std::int64_t looks =
    64;  // samples of all files together, at least one of each of as many
constexpr std::int64_t look_tokens = 4096;

TokenData::Settings settings_of(const Config& config) {
  return {.context = config.model.context,
          .vocab = config.model.vocab,
          .seed = config.train.seed,
          .samples = config.train.steps * config.train.global_batch};
}

std::vector<TokenFile> open_files(const std::vector<WeightedFile>& files, int token_bytes) {
  std::vector<TokenFile> opened;
  for (const WeightedFile& file : files) opened.push_back(TokenFile::open(file.path, token_bytes));
  return opened;
}

}  // namespace

TrainingData::TrainingData(const Config& config, Communicator& world)
    : config_(config),
      train_(config.data, settings_of(config)),
      valid_(open_files(config.data.valid, config.data.token_bytes)) {
  std::vector<std::int64_t> sizes;
  for (const TokenFile& file : valid_) sizes.push_back(file.tokens());
  valid_shares_ = shares_of(config.data.valid, sizes, config.data.weights);
  on_first_rank(world, [&] {
    std::vector<const TokenFile*> all;
    for (const TokenFile& file : train_.files()) all.push_back(&file);
    for (const TokenFile& file : valid_) all.push_back(&file);
    const auto count = static_cast<std::int64_t>(all.size());
    const std::int64_t each = std::max<std::int64_t>(1, looks / count);
    for (std::int64_t i = 0; i < count; i += std::max<std::int64_t>(1, count / looks))
      look(*all[static_cast<std::size_t>(i)], each);
    return std::string();
  });
}

/// Ids are checked as they are read; here is found what is wrong all over a file.
void TrainingData::look(const TokenFile& file, std::int64_t samples) const {
  const std::int64_t vocab = config_.model.vocab;
  if (file.form() == TokenFile::Form::raw && file.token_bytes() == 2 && vocab > 65536)
    throw InputFileError(file.path().string(),
                         fmt::format("is read as {}, which cannot hold the ids of model.vocab = "
                                     "{}; set data.token_bytes = 4, or model.vocab to at most "
                                     "65536",
                                     file.form_name(), vocab));
  if (file.looks_like_u32())
    throw InputFileError(file.path().string(),
                         "is read as raw u16, but every second token of it is 0 or 1: these are "
                         "u32 tokens; set data.token_bytes = 4");
  const std::int64_t count = std::min(file.tokens(), look_tokens);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::int64_t sample = 0; sample < samples; ++sample) {
    const std::int64_t last = file.tokens() - count;
    const std::int64_t begin = samples == 1 ? 0 : last / (samples - 1) * sample;
    file.read(begin, count, ids.data(), vocab);
    if (last == 0) break;
  }
}

std::vector<std::string> TrainingData::table() const {
  const std::int64_t last = config_.train.steps * config_.train.global_batch;
  const TokenData& data = train_;
  const std::vector<std::int64_t> drawn = data.windows_drawn(last);
  const WeightKind kind = resolved_weights(config_.data.train, config_.data.weights);
  std::vector<std::string> lines = {
      fmt::format("{} training file{}, weighted by {}: kind, tokens, documents, windows, share, "
                  "epochs over the "
                  "run",
                  data.files().size(), data.files().size() == 1 ? "" : "s",
                  kind == WeightKind::size ? "size" : "share")};
  for (std::size_t i = 0; i < data.files().size(); ++i) {
    const TokenFile& file = data.files()[i];
    lines.push_back(
        fmt::format("  {}  {}  {}  {}  {}  {:.4f}  {:.3f}", data.name(i), file.form_name(),
                    with_separators(file.tokens()),
                    file.documents() > 0 ? with_separators(file.documents()) : "-",
                    with_separators(data.windows(i)),
                    last > 0 ? static_cast<double>(drawn[i]) / static_cast<double>(last) : 0.0,
                    static_cast<double>(drawn[i]) / static_cast<double>(data.windows(i))));
  }
  return lines;
}

std::vector<std::string> TrainingData::warnings() const {
  std::vector<std::string> lines;
  for (const TokenFile& file : train_.files())
    if (file.index() != nullptr && file.documents() == 0)
      lines.push_back(file.index()->path().string() +
                      ": names no documents, as its builder was never told where one ends; "
                      "training goes on without boundaries");
  return lines;
}

}  // namespace polymoe
