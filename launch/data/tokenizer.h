// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe {

/// What an id is for.
enum class PieceKind : std::uint8_t {
  text,
  unknown,  // text that the tokenizer does not have
  byte,     // of a character that it does not have
};

/// Text to token ids and back.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Number of ids.
  virtual std::int64_t vocab() const = 0;
  /// The id that follows each document.
  virtual std::int32_t end_of_document() const = 0;
  /// Appends the ids of `text`. Thread-safe.
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  /// Likewise of text that goes on where the one of `ids` ended: tokenizers that put a blank before
  /// a text put none here.
  virtual void encode_on(std::string_view text, std::vector<std::int32_t>& ids) const {
    encode(text, ids);
  }
  /// The ids that the tokenizer's file puts before every text, and behind it: often one that marks
  /// the begin. `encode` leaves them out.
  virtual std::vector<std::int32_t> before_text() const { return {}; }
  virtual std::vector<std::int32_t> after_text() const { return {}; }
  /// What a model is given to continue: before_text(), unless the text says that itself, and the
  /// text; where that is nothing the end of a document.
  std::vector<std::int32_t> encode_prompt(std::string_view text) const;
  /// What the id stands for; it lies in [0, vocab()).
  virtual PieceKind kind_of(std::int32_t id) const = 0;
  /// The bytes that an id stands for: text, or part of one character; nothing for ids that stand
  /// for no text. Throws InvalidArgument for an id outside [0, vocab()).
  virtual std::string bytes_of(std::int32_t id) const = 0;
  /// The text of a sequence of ids, which starts a text; bytes that are no UTF-8 become U+FFFD.
  /// Ids that mark something stand for no text. Throws InvalidArgument as bytes_of does.
  virtual std::string decode(std::span<const std::int32_t> ids) const;
};

/// "bytes": ids 0 to 255 are the bytes, 256 ends a document, vocab() = 257. Otherwise the path of
/// a tokenizer.json of Hugging Face, known by its name or its first character, or of a
/// sentencepiece model; its end-of-sentence id (or else its begin-of-sentence id) ends a
/// document. Throws InputFileError when the file cannot be read, is of a kind that is not supported
/// or has no id that ends a document.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name);

/// Trains a sentencepiece model (byte-pair merges, byte fallback: no unknown text) of `vocab` ids
/// and writes it to `path`. White space and line breaks are kept as they are. The same texts give
/// the same model. `next` returns the texts one after the other and an empty one at the end.
/// Throws InvalidArgument when the texts do not support that vocabulary, OutputFileError.
void train_sentencepiece(std::int64_t vocab, const std::string& path,
                         const std::function<std::string_view()>& next);

/// Turns a stream of ids into text, whole UTF-8 characters at a time.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  /// The characters that `id` completes; bytes that are no UTF-8 become U+FFFD.
  std::string add(std::int32_t id);
  /// What is left of an unfinished character: U+FFFD, or nothing.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;  // the front of a character
};

}  // namespace polymoe
