// SPDX-License-Identifier: Apache-2.0
#include "launch/data/token_data.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/documents.h"
#include "launch/config/config.h"
#include "launch/data/document_packing.h"
#include "launch/data/mixture.h"
#include "launch/data/sample_order.h"
#include "launch/data/token_rows.h"
#include "launch/data/window_counts.h"
#include "runtime/error.h"
#include "runtime/files/token_file.h"
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
    std::int64_t windows = (file.tokens() - 1) / context;
    if (config_.packing == Packing::documents) {
      if (file.documents() < 1)
        throw InputFileError(file.path().string(),
                             "names no documents, which data.packing = documents needs: it takes "
                             "Megatron files whose index has them");
      auto known = settings_.counts.extract(named.path);
      FoundWindowCounts found = known.empty()
                                    ? find_window_counts(file, context, settings_.kept_counts)
                                    : std::move(known.mapped());
      if (!found.warning.empty()) warnings_.push_back(std::move(found.warning));
      windows = packings_.emplace_back(std::move(found.counts), std::move(found.from)).windows();
      if (windows < 1)
        throw InputFileError(file.path().string(), "has no document of two tokens or more");
    } else if (windows < 1) {
      throw InputFileError(file.path().string(),
                           fmt::format("has {} tokens; a sample of model.context = {} needs {}",
                                       file.tokens(), context, context + 1));
    } else if (config_.documents == Documents::mask) {
      ends_.emplace_back(file, named.path, config_);
    }
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

TokenData::CountsNotes TokenData::keep_counts() const {
  CountsNotes notes{.lines = {}, .warnings = warnings_};
  for (std::size_t i = 0; i < packings_.size(); ++i) {
    if (!packings_[i].counted() || files_[i].documents() < least_kept_documents) continue;
    try {
      const std::filesystem::path path =
          keep_window_counts(files_[i], packings_[i].counts(), settings_.kept_counts);
      notes.lines.push_back(fmt::format("{}: windows counted, and kept for the next start in {}",
                                        names_[i], path.string()));
    } catch (const OutputFileError& error) {
      notes.warnings.push_back(
          fmt::format("{}: its windows are counted at every start, as their counts cannot be kept: "
                      "{}",
                      names_[i], error.what()));
    }
  }
  return notes;
}

double TokenData::filled(std::size_t file) const {
  if (packings_.empty()) return 1.0;
  return static_cast<double>(packings_[file].rows()) /
         static_cast<double>(windows_[file] * context());
}

bool TokenData::masked() const {
  return keeps_documents() ||
         std::any_of(files_.begin(), files_.end(), [](const auto& file) { return file.masked(); });
}

std::int64_t TokenData::tokens() const {
  std::int64_t total = 0;
  for (const TokenFile& file : files_) total += file.tokens();
  return total;
}

void TokenData::sample(std::int64_t index, const TokenRows& rows) const {
  const auto [source, ordinal] = mixture_(index);
  const std::int64_t windows = windows_[source];
  const Permutation order(windows, keys_[source], static_cast<std::uint64_t>(ordinal / windows));
  const std::int64_t window = order(ordinal % windows);
  const TokenFile& file = files_[source];
  if (!packings_.empty()) return pack(file, packings_[source].window(file, window), rows);
  const std::int64_t begin = window * context();
  file.read(begin, context(), rows.tokens, settings_.vocab);
  file.read_targets(begin + 1, context(), rows.targets, settings_.vocab);
  if (!ends_.empty()) ends_[source].split(file, begin, context(), context(), rows);
}

void TokenData::pack(const TokenFile& file, const std::vector<DocumentPacking::Piece>& pieces,
                     const TokenRows& rows) const {
  std::int64_t first = 0;
  for (const DocumentPacking::Piece& piece : pieces) {
    const TokenRows to = rows.from(first);
    file.read(piece.begin, piece.rows, to.tokens, settings_.vocab);
    file.read_targets(piece.begin + 1, piece.rows, to.targets, settings_.vocab);
    const std::int64_t start = config_.documents == Documents::mask ? first : 0;
    std::fill_n(to.document_starts, piece.rows, static_cast<std::int32_t>(start));
    first += piece.rows;
  }
  const TokenRows padding = rows.from(first);
  std::fill_n(padding.tokens, context() - first, 0);
  std::fill_n(padding.targets, context() - first, -1);
  std::fill_n(padding.document_starts, context() - first, no_document);
}

}  // namespace polymoe
