// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <exception>
#include <filesystem>
#include <iostream>
#include <span>

#include "launch/commands/command.h"
#include "launch/config/values.h"
#include "launch/data/documents.h"
#include "launch/data/run_tokenizer.h"
#include "launch/data/tokenizer.h"
#include "launch/data/tokenizer_identity.h"
#include "launch/machine/exit_code.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/megatron_writer.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

struct Settings {
  std::string tokenizer;  // "bytes" or the path of a model
  std::int64_t train_vocabulary = 0;
  std::vector<std::string> inputs;
  std::string output;
  std::string separator;
  double held_out = 0.0;
  std::uint64_t seed = 0;
  bool force = false;
};

Settings settings_of(const CommandLine& line) {
  Settings settings;
  std::vector<std::string> lines;
  const auto refuse = [&](const char* option, const std::string& allowed) {
    lines.push_back("--" + std::string(option) + " " + line.value(option) + ": must be " + allowed);
  };
  settings.tokenizer = line.value("tokenizer");
  settings.inputs = line.values("input");
  settings.output = line.value("output");
  settings.force = line.has("force");
  settings.separator = line.value("document-separator");
  if (line.has("train-vocabulary")) {
    settings.train_vocabulary = parse_count(line.value("train-vocabulary")).value_or(0);
    if (settings.train_vocabulary < 1 || settings.train_vocabulary > (1 << 24))
      refuse("train-vocabulary", "a whole number in [259, 16777216]");
    if (!settings.tokenizer.empty())
      lines.push_back("--tokenizer and --train-vocabulary: one of them must be given, not both");
    settings.tokenizer = settings.output + ".model";
  } else if (settings.tokenizer.empty()) {
    lines.push_back("--tokenizer bytes, --tokenizer MODEL or --train-vocabulary N: must be given");
  }
  if (line.has("held-out")) {
    settings.held_out = parse_real(line.value("held-out")).value_or(-1.0);
    if (!(settings.held_out > 0.0 && settings.held_out < 1.0))
      refuse("held-out", "a number in (0, 1)");
  }
  const auto seed = parse_count(line.value("seed", "0"));
  if (!seed || *seed < 0)
    refuse("seed", "a whole number >= 0");
  else
    settings.seed = static_cast<std::uint64_t>(*seed);
  refuse_violations("arguments", lines);
  return settings;
}

// Writes the documents for which `chosen` holds, in order, each followed by the end id.
template <class Chosen>
void write_tokens(const Tokenizer& tokenizer, const TokenizerIdentity& identity,
                  const Documents& documents, const std::string& prefix, Chosen chosen) {
  // Documents are encoded on all cores, a batch at a time, and written in order.
  constexpr std::size_t batch = 256;
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < documents.size(); ++i)
    if (chosen(i)) numbers.push_back(i);
  MegatronWriter writer(prefix, tokenizer.vocab());
  std::vector<std::vector<std::int32_t>> ids;
  for (std::size_t first = 0; first < numbers.size(); first += batch) {
    const std::size_t count = std::min(batch, numbers.size() - first);
    ids.assign(count, {});
    std::exception_ptr failure;  // none may leave the parallel loop
#pragma omp parallel for schedule(dynamic)
    for (std::size_t i = 0; i < count; ++i) {
      try {
        tokenizer.encode(documents[numbers[first + i]], ids[i]);
        ids[i].push_back(tokenizer.end_of_document());
      } catch (...) {
#pragma omp critical(tokenize_failure)
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    for (const std::vector<std::int32_t>& document : ids) writer.add(document);
  }
  writer.finish();
  describe_tokens({.tokenizer = identity,
                   .end_of_document = tokenizer.end_of_document(),
                   .documents = writer.documents(),
                   .tokens = writer.tokens()},
                  prefix);
  std::cout << prefix << ".bin: " << with_separators(writer.documents()) << " documents, "
            << with_separators(writer.tokens()) << " tokens\n";
}

/// What an earlier call left at the prefix, of which a trained vocabulary cannot be made again.
void refuse_to_overwrite(const std::string& prefix) {
  for (const char* end : {".model", ".tokenizer", ".tokenizer.json", ".bin", ".idx", "-train.bin",
                          "-train.idx", "-valid.bin", "-valid.idx"})
    if (std::filesystem::exists(prefix + end))
      throw InvalidArgument("--output " + prefix + ": " + prefix + end +
                            " exists; choose another prefix, or --force to overwrite it");
}

int run_tokenize(CommandContext&, const std::vector<std::string>& args) {
  const Settings settings = settings_of(tokenize_command().parse(args));
  if (!settings.force) refuse_to_overwrite(settings.output);
  Documents documents(settings.inputs, settings.separator);
  std::vector<bool> held_out(documents.size(), false);
  if (settings.held_out > 0.0 && documents.size() == 1) {
    documents.cut_end(settings.held_out);
    held_out = {false, true};
    std::cout << "1 document: its last "
              << with_separators(static_cast<std::int64_t>(documents[1].size()))
              << " bytes are held out\n";
  } else if (settings.held_out > 0.0) {
    held_out = choose_held_out(documents.size(), settings.held_out, settings.seed);
  }
  const std::filesystem::path directory = std::filesystem::path(settings.output).parent_path();
  if (!directory.empty()) make_directories(directory);

  std::cout << with_separators(static_cast<std::int64_t>(documents.size())) << " documents, "
            << with_separators(documents.bytes()) << " bytes\n";
  if (settings.train_vocabulary > 0) {
    std::size_t next = 0;
    train_sentencepiece(settings.train_vocabulary, settings.tokenizer, [&]() -> std::string_view {
      while (next < documents.size() && held_out[next]) ++next;
      return next < documents.size() ? documents[next++] : std::string_view();
    });
    std::cout << settings.tokenizer << ": " << with_separators(settings.train_vocabulary)
              << " pieces\n";
  }
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(settings.tokenizer);
  TokenizerIdentity identity = identity_of_tokenizer(settings.tokenizer);
  identity.vocab = tokenizer->vocab();
  const auto trains = [&](std::size_t i) { return !held_out[i]; };
  if (settings.held_out > 0.0) {
    write_tokens(*tokenizer, identity, documents, settings.output + "-train", trains);
    write_tokens(*tokenizer, identity, documents, settings.output + "-valid",
                 [&](std::size_t i) { return held_out[i]; });
  } else {
    write_tokens(*tokenizer, identity, documents, settings.output, trains);
  }
  leave_tokenizer(settings.tokenizer, settings.output);
  return exit_done;
}

}  // namespace

const Command& tokenize_command() {
  static const Command command = {
      .name = "tokenize",
      .summary = "Turns text files into token files, with a tokenizer given or trained on them",
      .arguments = "",
      .options =
          {{"input", "FILE...", "text files; each is one document", true},
           {"output", "PREFIX",
            "writes PREFIX.bin and PREFIX.idx (Megatron), or PREFIX-train and PREFIX-valid; the "
            "tokenizer is left beside them",
            true},
           {"tokenizer", "bytes|MODEL",
            "ids 0 to 255 are the bytes and 256 ends a document (vocabulary 257), or a "
            "tokenizer.json of Hugging Face, or a sentencepiece model"},
           {"train-vocabulary", "N",
            "train a sentencepiece model of N pieces on the text, write it to PREFIX.model and use "
            "it"},
           {"held-out", "FRACTION",
            "share of the documents that goes to PREFIX-valid; of a single document its end"},
           {"document-separator", "LINE", "lines equal to this one end a document within a file"},
           {"force", "", "overwrite what is there at the prefix, a trained vocabulary too"},
           {"seed", "N", "of the choice of held-out documents; default 0"}},
      .overrides = false,
      .ranks = false,
      .run = run_tokenize};
  return command;
}

}  // namespace polymoe
