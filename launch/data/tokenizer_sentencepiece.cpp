// SPDX-License-Identifier: Apache-2.0
#include "launch/data/tokenizer_sentencepiece.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "launch/data/document_stream.h"
#include "launch/data/tokenizer.h"
#include "runtime/error.h"
#include "runtime/files/file.h"

namespace polymoe {
namespace {

const std::string_view space_mark = "\xE2\x96\x81";  // U+2581, sentencepiece's spelling of a blank

void load(const std::string& path, sentencepiece::SentencePieceProcessor& processor) {
  constexpr std::int64_t max_bytes = std::int64_t{1} << 30;
  const auto status = processor.LoadFromSerializedProto(read_file(path, max_bytes));
  if (!status.ok() || processor.GetPieceSize() < 1)
    throw InputFileError(path, "is not a sentencepiece model");
}

bool puts_blank_before(const sentencepiece::SentencePieceProcessor& processor) {
  std::vector<std::string> pieces;
  return processor.Encode("a", &pieces).ok() && !pieces.empty() &&
         pieces.front().starts_with(space_mark);
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::string& path) {
    load(path, processor_);
    prefix_blank_ = puts_blank_before(processor_);
    end_id_ = processor_.eos_id() >= 0 ? processor_.eos_id() : processor_.bos_id();
    if (end_id_ < 0)
      throw InputFileError(path, "has no end-of-sentence or begin-of-sentence id to end documents");
  }

  std::int64_t vocab() const override { return processor_.GetPieceSize(); }
  std::int32_t end_of_document() const override { return end_id_; }

  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    // The cost of an encoding grows faster than its text, and so does its memory: long ones go in
    // parts.
    constexpr std::size_t part_bytes = std::size_t{1} << 14;
    bool first = true;
    while (!text.empty()) {
      std::size_t length = text.size();
      if (length > part_bytes) length = part_length(text, part_bytes);
      // A model that puts a blank before a text takes it for the one that the text was cut at.
      if (!first && prefix_blank_ && length > 1 && text.front() == ' ') {
        text.remove_prefix(1);
        --length;
      }
      first = false;
      std::vector<int> part;
      const auto status = processor_.Encode(text.substr(0, length), &part);
      if (!status.ok()) throw Error("sentencepiece: " + status.ToString());
      ids.insert(ids.end(), part.begin(), part.end());
      text.remove_prefix(length);
    }
  }

  PieceKind kind_of(std::int32_t id) const override {
    if (processor_.IsUnknown(id)) return PieceKind::unknown;
    return processor_.IsByte(id) ? PieceKind::byte : PieceKind::text;
  }

  std::string bytes_of(std::int32_t id) const override {
    if (id < 0 || id >= vocab())
      throw InvalidArgument("token " + std::to_string(id) + ": the model has ids 0 to " +
                            std::to_string(vocab() - 1));
    if (processor_.IsControl(id) || processor_.IsUnused(id)) return "";
    if (processor_.IsUnknown(id)) return "\xEF\xBF\xBD";
    const std::string& piece = processor_.IdToPiece(id);
    if (processor_.IsByte(id))  // "<0x0A>"
      return std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
    std::string text;
    for (std::size_t i = 0; i < piece.size();) {
      if (std::string_view(piece).substr(i).starts_with(space_mark)) {
        text += ' ';
        i += space_mark.size();
      } else {
        text += piece[i++];
      }
    }
    return text;
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
  std::int32_t end_id_ = -1;
  bool prefix_blank_ = false;
};

// The texts in parts of whole lines that sentencepiece does not pass over for their length.
class Parts final : public sentencepiece::SentenceIterator {
 public:
  static constexpr std::size_t max_bytes = 4000;

  explicit Parts(const std::function<std::string_view()>& next) : next_(next) { Next(); }
  bool done() const override { return part_.empty(); }
  const std::string& value() const override { return part_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    part_.clear();
    if (text_.empty()) text_ = next_();
    if (text_.empty()) return;
    std::size_t length = std::min(text_.size(), max_bytes);
    if (length < text_.size()) {
      std::size_t line_end = text_.rfind('\n', length - 1);
      if (line_end != std::string_view::npos) {
        length = line_end + 1;
      } else {
        // Not within a character.
        while (length > 1 && (static_cast<unsigned char>(text_[length]) & 0xC0) == 0x80) --length;
      }
    }
    part_.assign(text_.substr(0, length));
    // It refuses texts that hold its own mark, and ends a text at a zero byte.
    for (std::size_t at = 0; (at = part_.find(space_mark, at)) != std::string::npos;)
      part_.replace(at, space_mark.size(), " ");
    std::replace(part_.begin(), part_.end(), '\0', ' ');
    text_.remove_prefix(length);
  }

 private:
  const std::function<std::string_view()>& next_;
  std::string_view text_;
  std::string part_;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path) {
  return std::make_unique<SentencePieceTokenizer>(path);
}

void train_sentencepiece(std::int64_t vocab, const std::string& path,
                         const std::function<std::string_view()>& next) {
  constexpr std::int64_t byte_pieces = 256, control_pieces = 2;
  if (vocab <= byte_pieces + control_pieces)
    throw InvalidArgument("--train-vocabulary " + std::to_string(vocab) + ": must exceed " +
                          std::to_string(byte_pieces + control_pieces) +
                          ", the ids of single bytes and the unknown and end marks");
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab)},
      {"byte_fallback", "true"},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      // Text comes back as it went in.
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      {"max_sentence_length", std::to_string(2 * Parts::max_bytes)},
      // A fixed number, so that the machine's does not show in the model.
      {"num_threads", "2"},
      {"minloglevel", "3"},
  };
  Parts parts(next);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &parts, &model);
  if (!status.ok())
    throw InvalidArgument("--train-vocabulary " + std::to_string(vocab) +
                          ": the text does not support it (sentencepiece: " + status.ToString() +
                          ")");
  replace_file(path, model);
}

SentencepieceTraits sentencepiece_traits(const std::string& path) {
  sentencepiece::SentencePieceProcessor processor;
  load(path, processor);
  const auto piece = [&](int id) { return id < 0 ? std::string() : processor.IdToPiece(id); };
  SentencepieceTraits traits{.byte_pairs = true,
                             .prefix_blank = false,
                             .begin = piece(processor.bos_id()),
                             .end = piece(processor.eos_id()),
                             .unknown = piece(processor.unk_id())};
  // A merge's score is its rank, a whole number; a unigram's is a logarithm.
  for (int id = 0; id < processor.GetPieceSize() && traits.byte_pairs; ++id)
    traits.byte_pairs = processor.GetScore(id) == std::trunc(processor.GetScore(id));
  traits.prefix_blank = puts_blank_before(processor);
  return traits;
}

}  // namespace polymoe
