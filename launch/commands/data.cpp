// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <numeric>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/values.h"
#include "launch/data/run_tokenizer.h"
#include "launch/data/tokenizer.h"
#include "launch/data/tokenizer_identity.h"
#include "launch/data/window_counts.h"
#include "launch/machine/exit_code.h"
#include "runtime/error.h"
#include "runtime/files/token_file.h"
#include "runtime/progress.h"

namespace polymoe {
namespace {

constexpr std::int64_t any_vocab = std::int64_t{1} << 31;

std::int64_t number(const CommandLine& line, const char* option, std::int64_t otherwise,
                    std::int64_t least) {
  if (!line.has(option)) return otherwise;
  const auto value = parse_count(line.value(option));
  if (!value || *value < least)
    throw InvalidArgument(fmt::format("--{} {}: must be a whole number, at least {}", option,
                                      line.value(option), least));
  return *value;
}

TokenFile open(const CommandLine& line, const std::string& path) {
  return TokenFile::open(path, static_cast<int>(number(line, "token-bytes", 2, 2)));
}

/// --vocab, else the ids of the tokenizer that made the file, else as many as a token can have.
std::int64_t vocab_of(const CommandLine& line, const std::string& path) {
  const auto tokenizer = tokenizer_of_tokens(path);
  return number(line, "vocab", tokenizer && tokenizer->vocab > 0 ? tokenizer->vocab : any_vocab, 1);
}

/// Calls body(first, ids) for one block of the file after the other.
template <class Body>
void for_each_block(const TokenFile& file, const char* what, std::int64_t vocab, Body body) {
  constexpr std::int64_t block = 1 << 20;
  Progress progress(progress_on_stderr(), {.what = what, .total = file.bytes(), .unit = "bytes"});
  std::vector<std::int32_t> ids;
  for (std::int64_t first = 0; first < file.tokens(); first += block) {
    ids.resize(static_cast<std::size_t>(std::min(block, file.tokens() - first)));
    file.read(first, static_cast<std::int64_t>(ids.size()), ids.data(), vocab);
    body(first, ids);
    progress.advance(static_cast<std::int64_t>(ids.size()) * file.token_bytes());
  }
}

/// The counts kept beside a file, against those of its index.
void check_kept_counts(const TokenFile& file) {
  const std::filesystem::path path = window_counts_path(file.path());
  if (!std::filesystem::exists(path)) return;
  const WindowCountsFile kept(path, file);
  const std::vector<WindowCounts> counts = count_windows(file, kept.contexts());
  for (const WindowCounts& now : counts)
    if (kept.read(file, now.context) != now)
      throw InputFileError(path.string(),
                           fmt::format("counts other windows of {} than the index of {} has; "
                                       "polymoe data windows writes it anew",
                                       now.context, file.path().string()));
}

int run_check(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = data_check_command().parse(args);
  for (const std::string& path : line.positional()) {
    const TokenFile file = open(line, path);
    if (file.looks_like_u32())
      throw InputFileError(path,
                           "is read as raw u16, but every second token is 0 or 1: give "
                           "--token-bytes 4");
    file.check_index();
    check_kept_counts(file);
    const std::int64_t vocab = vocab_of(line, path);
    std::int64_t counted = 0;
    std::vector<std::int32_t> targets;
    for_each_block(file, "checking", vocab, [&](std::int64_t first, const auto& ids) {
      if (!file.masked()) return;
      targets.resize(ids.size());
      file.read_targets(first, static_cast<std::int64_t>(ids.size()), targets.data(), vocab);
      counted += std::count_if(targets.begin(), targets.end(), [](auto id) { return id >= 0; });
    });
    std::cout << fmt::format(
        "{}: {}, {} tokens{}, {} document{}, ids below {}: fine\n", path, file.form_name(),
        with_separators(file.tokens()),
        file.masked() ? fmt::format(" of which {} count", with_separators(counted)) : "",
        file.documents() > 0 ? with_separators(file.documents()) : "unknown",
        file.documents() == 1 ? "" : "s", with_separators(vocab));
  }
  return exit_done;
}

int run_show(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = data_show_command().parse(args);
  const std::string& path = line.positional().front();
  const TokenFile file = open(line, path);
  const std::int64_t context = number(line, "context", 1024, 1);
  const std::int64_t windows = std::max<std::int64_t>(1, (file.tokens() - 1) / context);
  const std::int64_t window = number(line, "window", 0, 0);
  if (window >= windows)
    throw InvalidArgument(fmt::format("--window {}: {} has {} windows of --context {}", window,
                                      path, windows, context));
  std::string name = line.value("tokenizer");
  if (name.empty()) name = tokenizer_beside(path).value_or("");
  if (name.empty()) throw InvalidArgument("--tokenizer: must be given, none lies beside " + path);
  const auto tokenizer = load_tokenizer(name);
  const std::int64_t begin = window * context;
  std::vector<std::int32_t> ids(
      static_cast<std::size_t>(std::min(context + 1, file.tokens() - begin)));
  file.read(begin, static_cast<std::int64_t>(ids.size()), ids.data(), tokenizer->vocab());
  std::cout << fmt::format("tokens {} to {} of {}\n", begin,
                           begin + static_cast<std::int64_t>(ids.size()) - 1, path);
  TextStream text(*tokenizer);
  for (const std::int32_t id : ids)
    std::cout << (id == tokenizer->end_of_document() ? text.finish() + "\n----\n" : text.add(id));
  std::cout << text.finish() << '\n';
  return exit_done;
}

int run_windows(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = data_windows_command().parse(args);
  std::vector<std::int64_t> contexts(usual_contexts().begin(), usual_contexts().end());
  for (const std::string& text : line.values("context")) {
    constexpr std::int64_t most = 1 << 24;  // as of model.context
    const auto context = parse_count(text);
    if (!context || *context < 1 || *context > most)
      throw InvalidArgument(
          fmt::format("--context {}: must be a whole number in [1, {}]", text, most));
    if (std::find(contexts.begin(), contexts.end(), *context) == contexts.end())
      contexts.push_back(*context);
  }
  for (const std::string& name : line.positional()) {
    const TokenFile file = TokenFile::open(name, 2);
    if (file.documents() < 1)
      throw InputFileError(file.path().string(),
                           "names no documents, so that none can be packed: windows are counted of "
                           "Megatron files whose index has them");
    const std::filesystem::path path = window_counts_path(file.path());
    const std::vector<WindowCounts> counts = count_windows(file, contexts);
    write_window_counts(path, file, counts);
    std::cout << path.string() << ":";
    for (const WindowCounts& count : counts)
      std::cout << fmt::format("{} {} of {}", count.context == counts.front().context ? "" : ",",
                               with_separators(std::accumulate(
                                   count.windows.begin(), count.windows.end(), std::int64_t{0})),
                               count.context);
    std::cout << '\n';
  }
  return exit_done;
}

std::string lengths_line(const TokenFile& file) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < file.documents(); ++i) lengths.push_back(file.document(i).size());
  std::sort(lengths.begin(), lengths.end());
  const auto at = [&](std::size_t part, std::size_t parts) {
    return with_separators(lengths[std::min(lengths.size() - 1, lengths.size() * part / parts)]);
  };
  return fmt::format("  tokens of a document: {} to {}, median {}, 90 % up to {}\n", at(0, 1),
                     at(1, 1), at(1, 2), at(9, 10));
}

int run_statistics(CommandContext&, const std::vector<std::string>& args) {
  const CommandLine line = data_statistics_command().parse(args);
  for (const std::string& path : line.positional()) {
    const TokenFile file = open(line, path);
    std::vector<std::int64_t> counts;
    for_each_block(file, "counting", any_vocab, [&](std::int64_t, const auto& ids) {
      for (const std::int32_t id : ids) {
        if (static_cast<std::size_t>(id) >= counts.size())
          counts.resize(static_cast<std::size_t>(id) + 1);
        ++counts[static_cast<std::size_t>(id)];
      }
    });
    const auto used = std::count_if(counts.begin(), counts.end(), [](auto n) { return n > 0; });
    std::vector<std::size_t> order(counts.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const std::size_t shown = std::min<std::size_t>(5, order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shown),
                      order.end(), [&](auto a, auto b) { return counts[a] > counts[b]; });
    std::cout << fmt::format("{}: {}, {} tokens, {} documents\n", path, file.form_name(),
                             with_separators(file.tokens()), with_separators(file.documents()));
    std::cout << fmt::format("  ids: {} different ones, the largest {}; most frequent:",
                             with_separators(used), counts.size() - 1);
    for (std::size_t i = 0; i < shown; ++i)
      std::cout << fmt::format(
          " {} ({:.2f} %)", order[i],
          100.0 * static_cast<double>(counts[order[i]]) / static_cast<double>(file.tokens()));
    std::cout << '\n';
    if (file.documents() > 0) std::cout << lengths_line(file);
    if (const auto tokenizer = tokenizer_of_tokens(path))
      std::cout << "  tokenizer: " << tokenizer->text() << '\n';
  }
  return exit_done;
}

CommandOption token_bytes_option() {
  return {.name = "token-bytes", .value = "N", .help = "of raw .npy files, 2 or 4; default 2"};
}

}  // namespace

const Command& data_command() {
  static const Command command = {
      .name = "data",
      .summary = "Checks token files and shows what is in them",
      .arguments = "",
      .options = {},
      .subcommands = {&data_check_command(), &data_show_command(), &data_statistics_command(),
                      &data_windows_command()}};
  return command;
}

const Command& data_check_command() {
  static const Command command = {
      .name = "data check",
      .summary = "Reads token files whole: index, ids, loss mask and counts of windows",
      .arguments = "FILE...",
      .positional = 1,
      .more_positional = true,
      .options = {{.name = "vocab",
                   .value = "N",
                   .help = "ids must be below; default: as many as the file's tokenizer has"},
                  token_bytes_option()},
      .run = run_check};
  return command;
}

const Command& data_show_command() {
  static const Command command = {
      .name = "data show",
      .summary = "Prints a window of a token file as text",
      .arguments = "FILE",
      .positional = 1,
      .options = {{.name = "window", .value = "N", .help = "from 0; default 0"},
                  {.name = "context", .value = "N", .help = "tokens of a window; default 1024"},
                  {.name = "tokenizer",
                   .value = "bytes|MODEL",
                   .help = "default: the one beside the file"},
                  token_bytes_option()},
      .run = run_show};
  return command;
}

const Command& data_statistics_command() {
  static const Command command = {.name = "data statistics",
                                  .summary = "Counts ids and lengths of documents",
                                  .arguments = "FILE...",
                                  .positional = 1,
                                  .more_positional = true,
                                  .options = {token_bytes_option()},
                                  .run = run_statistics};
  return command;
}

const Command& data_windows_command() {
  static const Command command = {
      .name = "data windows",
      .summary = "Counts windows for data.packing = documents, so that no start has to",
      .arguments = "FILE...",
      .positional = 1,
      .more_positional = true,
      .options = {{.name = "context",
                   .value = "N...",
                   .help = "of other contexts too than the powers of two from 512 to 131072"}},
      .run = run_windows};
  return command;
}

}  // namespace polymoe
