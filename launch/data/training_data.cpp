// SPDX-License-Identifier: Apache-2.0
#include "launch/data/training_data.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/option_table.h"
#include "launch/config/values.h"
#include "launch/data/counts_of_ranks.h"
#include "launch/data/data_state.h"
#include "launch/data/file_identity.h"
#include "launch/data/mixture.h"
#include "launch/data/names_apart.h"
#include "launch/data/token_data.h"
#include "launch/data/tokenizer_identity.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/packed.h"
#include "runtime/error.h"
#include "runtime/files/json.h"
#include "runtime/files/token_file.h"

namespace polymoe {
namespace {

constexpr std::int64_t looks =
    64;  // samples of all files together, at least one of each of as many
constexpr std::int64_t look_tokens = 4096;
constexpr int readers = 16;  // threads

TokenData::Settings settings_of(const Config& config) {
  return {.context = config.model.context,
          .vocab = config.model.vocab,
          .seed = config.train.seed,
          .samples = config.train.steps * config.train.global_batch,
          .kept_counts = std::filesystem::path(config.run.dir) / "windows"};
}

/// The settings that the order of samples follows from, beside the files' content.
std::string mixture_of(const Config& config) {
  std::string text;
  for (const char* key : {"data.train", "data.weights", "data.stages", "data.stage_change",
                          "data.max_epochs", "train.seed", "model.context"})
    text += (text.empty() ? "" : " | ") + find_option(key)->print(config);
  // Only where it is not as it always was: checkpoints of before say nothing of it.
  if (config.data.packing != Packing::stream)
    text += " | packing " + find_option("data.packing")->print(config);
  return text;
}

std::vector<TokenFile> open_files(const std::vector<WeightedFile>& files, int token_bytes) {
  std::vector<TokenFile> opened;
  for (const WeightedFile& file : files) opened.push_back(TokenFile::open(file.path, token_bytes));
  return opened;
}

/// The files of data.train and of all stages, each once.
std::vector<std::string> training_paths(const DataConfig& config) {
  std::vector<std::string> paths;
  const auto add = [&](const std::vector<WeightedFile>& files) {
    for (const WeightedFile& file : files)
      if (std::find(paths.begin(), paths.end(), file.path) == paths.end())
        paths.push_back(file.path);
  };
  add(config.train);
  for (const DataStage& stage : config.stages) add(stage.files);
  return paths;
}

/// Collective.
TokenData open_training(const Config& config, Communicator& world) {
  TokenData::Settings settings = settings_of(config);
  if (config.data.packing == Packing::documents)
    settings.counts = window_counts_of_ranks(training_paths(config.data), config.data.token_bytes,
                                             settings.context, settings.kept_counts, world);
  std::optional<TokenData> data;
  on_every_rank(world, [&] { data.emplace(config.data, std::move(settings)); });
  return std::move(*data);
}

/// Position and notes, as ranks send them to each other.
std::string pack(const DataContinuation& next) {
  Packer packer;
  packer.number(next.position.sample).number(next.position.tokens);
  packer.number(static_cast<std::int64_t>(next.position.files.size()));
  for (const DataPosition::File& file : next.position.files)
    packer.number(file.slot).number(file.start);
  for (const std::string& note : next.notes) packer.text(note);
  return packer.take();
}

DataContinuation unpack(const std::string& packed) {
  Unpacker unpacker(packed);
  DataContinuation next;
  next.position.sample = unpacker.number();
  next.position.tokens = unpacker.number();
  next.position.files.resize(static_cast<std::size_t>(unpacker.number()));
  for (DataPosition::File& file : next.position.files) {
    file.slot = unpacker.number();
    file.start = unpacker.number();
  }
  while (!unpacker.done()) next.notes.push_back(unpacker.text());
  return next;
}

}  // namespace

TrainingData::TrainingData(const Config& config, Communicator& world)
    : config_(config), train_(open_training(config, world)) {
  on_every_rank(world, [&] {
    valid_ = open_files(config.data.valid, config.data.token_bytes);
    std::vector<std::int64_t> sizes;
    for (const TokenFile& file : valid_) {
      if (config.data.documents == Documents::mask)
        valid_ends_.emplace_back(file, config.data.valid[sizes.size()].path, config.data);
      sizes.push_back(file.tokens());
    }
    valid_shares_ = shares_of(config.data.valid, sizes, config.data.weights);
  });
  mixture_ = mixture_of(config);
  on_first_rank(world, [&] {
    agree_on_tokenizer();  // first: it knows why ids are too large
    look_at_all();
    counts_notes_ = train_.keep_counts();
  });
}

void TrainingData::look_at_all() {
  std::vector<const TokenFile*> all;
  for (const TokenFile& file : train_.files()) all.push_back(&file);
  for (const TokenFile& file : valid_) all.push_back(&file);
  const auto count = static_cast<std::int64_t>(all.size());
  const std::int64_t each = std::max<std::int64_t>(1, looks / count);
  for (std::int64_t i = 0; i < count; i += std::max<std::int64_t>(1, count / looks))
    look(*all[static_cast<std::size_t>(i)], each);
  // Many small reads at once: a disk answers them better than one after the other.
  identities_.resize(train_.files().size());
  std::exception_ptr failure;
#pragma omp parallel for num_threads(readers) schedule(dynamic)
  for (std::size_t i = 0; i < identities_.size(); ++i) {
    try {
      identities_[i] = {.identity = FileIdentity::of(train_.files()[i], train_.name(i)),
                        .position = {},
                        .drawn = 0,
                        .windows = train_.windows(i)};
    } catch (...) {
#pragma omp critical(file_identity)
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

/// Ids of two tokenizers mean nothing to one another.
void TrainingData::agree_on_tokenizer() {
  std::string first;
  const auto add = [&](const std::string& path) -> std::string {
    const std::optional<TokenizerIdentity> identity = tokenizer_of_tokens(path);
    if (!identity) return "-";
    if (identity->vocab > config_.model.vocab)
      throw InputFileError(path, fmt::format("holds tokens of {}; model.vocab = {} is less",
                                             identity->text(), config_.model.vocab));
    if (tokenizer_ && !tokenizer_->same_as(*identity))
      throw InputFileError(path, fmt::format("holds tokens of {}, but {} those of {}: tokenize "
                                             "all files by one tokenizer",
                                             identity->text(), first, tokenizer_->text()));
    if (!tokenizer_) {
      tokenizer_ = identity;
      first = path;
    }
    return identity->name;
  };
  for (std::size_t i = 0; i < train_.files().size(); ++i)
    tokenizer_names_.push_back(add(train_.name(i)));
  for (const WeightedFile& file : config_.data.valid) add(file.path);
}

std::vector<std::string> TrainingData::go_on(const Json& state, std::int64_t sample,
                                             std::int64_t tokens, Communicator& world) {
  const std::string packed =
      on_first_rank(world, [&] { return pack(continuation(state, sample, tokens)); });
  DataContinuation next = unpack(packed);
  train_.begin(next.position);
  return std::move(next.notes);
}

/// On one rank. What is unused stays here, the rest all ranks must know.
DataContinuation TrainingData::continuation(const Json& state, std::int64_t sample,
                                            std::int64_t tokens) {
  DataContinuation next;
  if (state.is_null()) {
    // A version that kept no such state wrote it: it began at sample 0 with these files.
    next.position = train_.position();
  } else {
    const DataState before = DataState::from_json(state);
    if (tokenizer_ && before.tokenizer && !tokenizer_->same_as(*before.tokenizer)) {
      const std::string line =
          fmt::format("holds tokens of {}, but the checkpoint was trained on those of {}",
                      tokenizer_->text(), before.tokenizer->text());
      if (!config_.data.accept_changed)
        throw InputFileError(train_.name(0),
                             line + "; data.changed = accept goes on in a new run.dir");
      next.notes.push_back(train_.name(0) + " " + line);
    }
    if (!tokenizer_) tokenizer_ = before.tokenizer;
    DataContinuation found =
        continue_data(before, identities_, mixture_, sample, tokens, config_.data.accept_changed);
    found.notes.insert(found.notes.begin(), next.notes.begin(), next.notes.end());
    next = std::move(found);
  }
  unused_ = next.unused;
  return next;
}

Json TrainingData::state(std::int64_t sample) const {
  if (identities_.empty()) return {};
  DataState state{.sample = train_.position().sample,
                  .tokens = train_.position().tokens,
                  .mixture = mixture_,
                  .files = identities_,
                  .tokenizer = tokenizer_};
  const std::vector<std::int64_t> drawn = train_.windows_drawn(sample);
  for (std::size_t i = 0; i < state.files.size(); ++i) {
    state.files[i].position = train_.position().files[i];
    state.files[i].drawn = drawn[i];
  }
  state.files.insert(state.files.end(), unused_.begin(), unused_.end());
  return state.to_json();
}

/// Ids are checked as they are read; here is found what is wrong all over a file.
void TrainingData::look(const TokenFile& file, std::int64_t samples) {
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
    const std::int32_t largest = count == 0 ? -1 : *std::max_element(ids.begin(), ids.end());
    if (largest > largest_id_) {
      largest_id_ = largest;
      file_of_largest_id_ = file.path().string();
    }
    if (last == 0) break;
  }
}

std::vector<std::string> TrainingData::valid_names() const {
  std::vector<std::filesystem::path> paths;
  for (const TokenFile& file : valid_) paths.push_back(file.path());
  return names_apart(paths, {".bin", ".idx", ".npy"});
}

std::vector<std::string> TrainingData::table() const {
  const std::int64_t last = config_.train.steps * config_.train.global_batch;
  const TokenData& data = train_;
  const std::vector<std::int64_t> drawn = data.windows_drawn(last);
  const WeightKind kind = resolved_weights(config_.data.train, config_.data.weights);
  const bool packed = config_.data.packing == Packing::documents;
  std::vector<std::string> lines = {
      fmt::format("{} training file{}, weighted by {}: kind, tokens, documents, windows, share, "
                  "epochs over the "
                  "run, tokenizer{}",
                  data.files().size(), data.files().size() == 1 ? "" : "s",
                  kind == WeightKind::size ? "size" : "share", packed ? ", rows filled" : "")};
  for (std::size_t i = 0; i < data.files().size(); ++i) {
    const TokenFile& file = data.files()[i];
    lines.push_back(fmt::format(
        "  {}  {}  {}  {}  {}  {:.4f}  {:.3f}  {}", data.name(i), file.form_name(),
        with_separators(file.tokens()),
        file.documents() > 0 ? with_separators(file.documents()) : "-",
        with_separators(data.windows(i)),
        last > 0 ? static_cast<double>(drawn[i]) / static_cast<double>(last) : 0.0,
        static_cast<double>(drawn[i]) / static_cast<double>(data.windows(i)), tokenizer_names_[i]));
    if (packed) lines.back() += fmt::format("  {:.1f}%", 100.0 * data.filled(i));
  }
  lines.insert(lines.end(), counts_notes_.lines.begin(), counts_notes_.lines.end());
  return lines;
}

std::vector<std::string> TrainingData::warnings() const {
  std::vector<std::string> lines = counts_notes_.warnings;
  for (const TokenFile& file : train_.files())
    if (file.index() != nullptr && file.documents() == 0)
      lines.push_back(file.index()->path().string() +
                      ": names no documents, as its builder was never told where one ends; "
                      "training goes on without boundaries");
  if (!tokenizer_ || tokenizer_->vocab == 0) return lines;
  if (largest_id_ >= tokenizer_->vocab)
    lines.push_back(
        fmt::format("{}: holds the id {}, but the tokenizer {} ends before it: such "
                    "tokens stand for no text",
                    file_of_largest_id_, largest_id_, tokenizer_->text()));
  if (tokenizer_->vocab < config_.model.vocab)
    lines.push_back(
        fmt::format("model.vocab = {}: the tokenizer {} has fewer; the other ids only "
                    "take memory and time",
                    config_.model.vocab, tokenizer_->text()));
  return lines;
}

}  // namespace polymoe
