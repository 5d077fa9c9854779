// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/values.h"
#include "launch/data/chat.h"
#include "launch/data/document_stream.h"
#include "launch/data/held_out.h"
#include "launch/data/part_encoder.h"
#include "launch/data/run_tokenizer.h"
#include "launch/data/sampled_texts.h"
#include "launch/data/text_inputs.h"
#include "launch/data/token_output.h"
#include "launch/data/tokenizer.h"
#include "launch/data/tokenizer_identity.h"
#include "launch/machine/exit_code.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/named_output.h"
#include "runtime/progress.h"
#include "runtime/violations.h"

namespace polymoe {
namespace {

struct Settings {
  std::string tokenizer;  // "bytes" or the path of a model
  std::int64_t train_vocabulary = 0;
  std::int64_t vocabulary_bytes = 200'000'000;
  std::vector<std::string> inputs;
  std::string output;
  DocumentStream::Settings documents;
  PartEncoder::Settings encoding;
  double held_out = 0.0;
  std::uint64_t seed = 0;
  bool force = false;
  int threads = 0;
};

/// What the command line says, with everything that is wrong with it.
Settings settings_of(const CommandLine& line) {
  Settings settings;
  std::vector<std::string> lines;
  const auto refuse = [&](const char* option, const std::string& allowed) {
    lines.push_back("--" + std::string(option) + " " + line.value(option) + ": must be " + allowed);
  };
  const auto count = [&](const char* option, std::int64_t otherwise, std::int64_t least,
                         std::int64_t most) {
    if (!line.has(option)) return otherwise;
    const auto value = parse_count(line.value(option));
    if (value && *value >= least && *value <= most) return *value;
    refuse(option,
           "a whole number in [" + std::to_string(least) + ", " + std::to_string(most) + "]");
    return otherwise;
  };
  settings.tokenizer = line.value("tokenizer");
  settings.inputs = line.values("input");
  settings.output = line.value("output");
  settings.force = line.has("force");
  settings.documents.separator = line.value("document-separator");
  settings.encoding.field = line.value("field", "text");
  settings.documents.json = line.has("field") || line.has("chat");
  settings.documents.column = settings.encoding.field;
  settings.documents.conversations = line.has("chat");
  if (line.has("train-vocabulary")) {
    settings.train_vocabulary = count("train-vocabulary", 0, 259, 1 << 24);
    if (!settings.tokenizer.empty())
      lines.push_back("--tokenizer and --train-vocabulary: one of them must be given, not both");
    settings.tokenizer = settings.output + ".model";
  } else if (settings.tokenizer.empty()) {
    lines.push_back("--tokenizer bytes, --tokenizer MODEL or --train-vocabulary N: must be given");
  }
  settings.vocabulary_bytes =
      count("vocabulary-bytes", settings.vocabulary_bytes, 1, std::int64_t{1} << 40);
  settings.threads = static_cast<int>(count("threads", 0, 1, 4096));
  settings.seed =
      static_cast<std::uint64_t>(count("seed", 0, 0, std::numeric_limits<std::int64_t>::max()));
  if (line.has("held-out")) {
    settings.held_out = parse_real(line.value("held-out")).value_or(-1.0);
    if (!(settings.held_out > 0.0 && settings.held_out < 1.0))
      refuse("held-out", "a number in (0, 1)");
  }
  if (line.has("invalid")) {
    settings.encoding.replace_invalid = line.value("invalid") == "replace";
    if (line.value("invalid") != "replace" && line.value("invalid") != "refuse")
      refuse("invalid", "refuse or replace");
  }
  if (line.has("chat")) {
    settings.encoding.chat = parse_chat_template(line.value("chat"));
    if (!settings.encoding.chat && line.value("chat") != "auto")
      refuse("chat", "chatml, llama3, olmo, segments or auto");
    if (line.has("field"))
      lines.push_back("--chat and --field: one of them must be given, not both");
    if (line.has("train-vocabulary"))
      lines.push_back("--chat: needs a tokenizer that is there, not --train-vocabulary");
  }
  refuse_violations("arguments", lines);
  if (line.has("chat") && !settings.encoding.chat)
    settings.encoding.chat = find_chat_template(settings.tokenizer);
  return settings;
}

/// What an earlier call left at the prefix, of which a trained vocabulary cannot be made again.
void refuse_to_overwrite(const std::string& prefix) {
  for (const char* end : {".model", ".tokenizer", ".tokenizer.json", ".bin", ".idx", "-train.bin",
                          "-train.idx", "-valid.bin", "-valid.idx"})
    if (std::filesystem::exists(prefix + end))
      throw InvalidArgument("--output " + prefix + ": " + prefix + end +
                            " exists; choose another prefix, or --force to overwrite it");
}

/// Of the files that are written.
constexpr std::array written_ends = {".bin",   ".idx",       ".mask.bin",      ".tokens.json",
                                     ".model", ".tokenizer", ".tokenizer.json"};

/// Documents and bytes of all inputs, for what must be known before the first one is written.
struct Extent {
  std::int64_t documents = 0;
  std::int64_t bytes = 0;
  bool json = false;
};

/// Which documents go to PREFIX-valid, and of a single document from which byte on.
struct HeldOut {
  std::vector<bool> documents;  // empty = none
  std::int64_t from_byte = -1, all_bytes = 0;

  bool any() const { return !documents.empty() || from_byte >= 0; }
  bool holds(std::int64_t document) const {
    return !documents.empty() && documents[static_cast<std::size_t>(document)];
  }
};

class Tokenizing {
 public:
  explicit Tokenizing(Settings settings)
      : settings_(std::move(settings)),
        files_(text_inputs(settings_.inputs)),
        encoder_(settings_.encoding) {}

  void run() {
    if (!settings_.force) refuse_to_overwrite(settings_.output);
    refuse_to_replace_inputs();
    const bool twice = settings_.held_out > 0.0 || settings_.train_vocabulary > 0;
    if (twice && std::find(files_.begin(), files_.end(), "-") != files_.end())
      throw InvalidArgument(
          "--input -: standard input is read once; --held-out and --train-vocabulary need files");
    if (settings_.held_out > 0.0) hold_out();
    const std::filesystem::path directory = std::filesystem::path(settings_.output).parent_path();
    if (!directory.empty()) make_directories(directory);
    if (settings_.train_vocabulary > 0) train_vocabulary();
    tokenizer_ = load_tokenizer(settings_.tokenizer);
    write();
    leave_tokenizer(settings_.tokenizer, settings_.output);
  }

 private:
  /// Whatever --force says. The tokenizer may be the one that an earlier call left there.
  void refuse_to_replace_inputs() const {
    std::vector<NamedPath> inputs, outputs;
    for (const std::string& file : files_)
      if (file != "-") inputs.push_back({"--input", file});
    for (const char* part : {"", "-train", "-valid"})
      for (const char* end : written_ends)
        outputs.push_back({"--output", settings_.output + part + end});
    refuse_to_replace(outputs, inputs);
  }

  /// Calls body(part) for every part of every document.
  template <class Body>
  void for_each_part(const char* what, Body body) {
    Progress progress(progress_on_stderr(),
                      {.what = what, .total = input_bytes(files_), .unit = "bytes"});
    DocumentStream stream(files_, settings_.documents);
    std::int64_t consumed = 0;
    for (DocumentPart part; stream.next(part);) {
      body(part);
      progress.advance(stream.consumed() - std::exchange(consumed, stream.consumed()));
    }
  }

  void hold_out() {
    Extent extent;
    for_each_part("counting documents", [&](const DocumentPart& part) {
      extent.documents = part.document + 1;
      extent.bytes += static_cast<std::int64_t>(part.text.size());
      extent.json |= part.json;
    });
    if (extent.documents != 1) {
      held_out_.documents = choose_held_out(static_cast<std::size_t>(extent.documents),
                                            settings_.held_out, settings_.seed);
      return;
    }
    if (extent.json)
      throw InvalidArgument("--held-out: needs at least 2 lines of JSON, there is 1");
    held_out_.all_bytes = extent.bytes;
    held_out_.from_byte = static_cast<std::int64_t>(
        std::llround((1.0 - settings_.held_out) * static_cast<double>(extent.bytes)));
    if (held_out_.from_byte < 1 || held_out_.from_byte >= extent.bytes)
      throw InvalidArgument("--held-out: a text of " + std::to_string(extent.bytes) +
                            " bytes is too short to hold out its end");
  }

  /// What the model is trained on: everything, or of more than that a sample, in its order.
  void train_vocabulary() {
    SampledTexts sample(settings_.vocabulary_bytes, settings_.seed);
    std::int64_t bytes = 0;
    for_each_part("reading text", [&](const DocumentPart& part) {
      const std::int64_t begin = bytes;
      bytes += static_cast<std::int64_t>(part.text.size());
      if (held_out_.holds(part.document)) return;
      std::string text = encoder_.text_of(part);
      if (held_out_.from_byte >= 0 && bytes > held_out_.from_byte)
        text.resize(static_cast<std::size_t>(
            std::max<std::int64_t>(0, cut_of(text, held_out_.from_byte - begin))));
      sample.add(std::move(text));
    });
    std::size_t next = 0;
    const std::vector<std::string> texts = sample.take();
    std::optional<Elapsed> training(
        std::in_place, progress_on_stderr(),
        "training a vocabulary of " + with_separators(settings_.train_vocabulary) + " pieces on " +
            short_bytes(static_cast<double>(sample.bytes())) + " of text");
    train_sentencepiece(settings_.train_vocabulary, settings_.tokenizer, [&]() -> std::string_view {
      return next < texts.size() ? std::string_view(texts[next++]) : std::string_view();
    });
    training.reset();
    std::cout << settings_.tokenizer << ": " << with_separators(settings_.train_vocabulary)
              << " pieces, of " << with_separators(sample.bytes()) << " bytes of text\n";
  }

  /// Near `wanted`: behind a line, else between characters.
  static std::int64_t cut_of(std::string_view text, std::int64_t wanted) {
    if (wanted <= 0) return 0;
    const std::size_t line_end = text.substr(0, static_cast<std::size_t>(wanted)).rfind('\n');
    if (line_end != std::string_view::npos) return static_cast<std::int64_t>(line_end) + 1;
    auto cut = static_cast<std::size_t>(wanted);
    while (cut < text.size() && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) ++cut;
    return static_cast<std::int64_t>(cut);
  }

  void write() {
    const std::string& prefix = settings_.output;
    TokenOutput train(held_out_.any() ? prefix + "-train" : prefix, *tokenizer_, encoder_,
                      settings_.encoding.chat.has_value(), settings_.threads);
    std::optional<TokenOutput> valid;
    if (held_out_.any())
      valid.emplace(prefix + "-valid", *tokenizer_, encoder_, settings_.encoding.chat.has_value(),
                    settings_.threads);
    std::int64_t bytes = 0;
    for_each_part("tokenizing", [&](DocumentPart& part) {
      const std::int64_t begin = bytes;
      bytes += static_cast<std::int64_t>(part.text.size());
      if (held_out_.from_byte < 0 || bytes <= held_out_.from_byte) {
        (held_out_.holds(part.document) ? *valid : train).add(std::move(part));
        return;
      }
      const std::int64_t cut = cut_of(part.text, held_out_.from_byte - begin);
      if (begin <= held_out_.from_byte)
        std::cout << "1 document: its last "
                  << with_separators(held_out_.all_bytes - begin - std::max<std::int64_t>(cut, 0))
                  << " bytes are held out\n";
      if (cut > 0) {
        DocumentPart front = part;
        front.text.resize(static_cast<std::size_t>(cut));
        front.last = true;
        train.add(std::move(front));
        part.text.erase(0, static_cast<std::size_t>(cut));
      } else if (begin == held_out_.from_byte) {
        train.end_document();
      }
      if (!part.text.empty()) valid->add(std::move(part));
    });
    if (bytes == 0)
      throw InputFileError(files_.front() == "-" ? "standard input" : files_.front(),
                           "holds no text, nor does any other input");
    TokenizerIdentity identity = identity_of_tokenizer(settings_.tokenizer);
    identity.vocab = tokenizer_->vocab();
    std::cout << train.finish(identity);
    if (valid) std::cout << valid->finish(identity);
  }

  const Settings settings_;
  const std::vector<std::string> files_;
  const PartEncoder encoder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  HeldOut held_out_;
};

int run_tokenize(CommandContext&, const std::vector<std::string>& args) {
  Tokenizing(settings_of(tokenize_command().parse(args))).run();
  return exit_done;
}

}  // namespace

const Command& tokenize_command() {
  static const Command command = {
      .name = "tokenize",
      .summary = "Turns text files into token files, with a tokenizer given or trained on them",
      .arguments = "",
      .options =
          {{"input", "FILE...",
            "text files, each one document, or JSON lines (.jsonl, .ndjson), a document a line; "
            "also packed by gzip, zstd or xz; directories, quoted patterns, - for standard input",
            true},
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
           {"vocabulary-bytes", "N",
            "of more text than this it is trained on a sample; default 200 MB"},
           {"held-out", "FRACTION",
            "share of the documents that goes to PREFIX-valid; of a single document its end"},
           {"document-separator", "LINE", "lines equal to this one end a document within a file"},
           {"force", "", "overwrite what is there at the prefix, a trained vocabulary too"},
           {"field", "NAME",
            "every input is of JSON lines, whose text is in this field; default for .jsonl: text"},
           {"chat", "TEMPLATE",
            "every input is of JSON lines with \"messages\", or \"prompt\" and \"completion\"; the "
            "assistant's part counts in the loss (PREFIX.mask.bin). chatml, llama3, olmo, or auto: "
            "as tokenizer_config.json says; segments: as launch/chat/render wrote them"},
           {"invalid", "refuse|replace",
            "text that is no UTF-8 ends the command, or becomes U+FFFD and is counted"},
           {"threads", "N", "that encode; default: all cores"},
           {"seed", "N", "of the choice of held-out documents and of the sample; default 0"}},
      .overrides = false,
      .ranks = false,
      .run = run_tokenize};
  return command;
}

}  // namespace polymoe
