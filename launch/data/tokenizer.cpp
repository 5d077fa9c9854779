// SPDX-License-Identifier: Apache-2.0
#include "launch/data/tokenizer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launch/data/tokenizer_huggingface.h"
#include "launch/data/tokenizer_sentencepiece.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  std::int64_t vocab() const override { return end_id + 1; }
  std::int32_t end_of_document() const override { return end_id; }
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  }
  PieceKind kind_of(std::int32_t) const override { return PieceKind::text; }
  std::string bytes_of(std::int32_t id) const override {
    if (id < 0 || id > end_id)
      throw InvalidArgument("token " + std::to_string(id) + ": the byte tokenizer has ids 0 to " +
                            std::to_string(end_id));
    return id == end_id ? std::string() : std::string(1, static_cast<char>(id));
  }

 private:
  static constexpr std::int32_t end_id = 256;
};

const char* const replacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  if (is_huggingface_tokenizer(name)) return load_huggingface_tokenizer(name);
  return load_sentencepiece(name);
}

std::vector<std::int32_t> Tokenizer::encode_prompt(std::string_view text) const {
  const std::vector<std::int32_t> before = before_text();
  std::vector<std::int32_t> ids;
  encode(text, ids);
  if (ids.size() < before.size() || !std::equal(before.begin(), before.end(), ids.begin()))
    ids.insert(ids.begin(), before.begin(), before.end());
  if (ids.empty()) ids.push_back(end_of_document());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  TextStream stream(*this);
  std::string text;
  for (const std::int32_t id : ids) text += stream.add(id);
  return text + stream.finish();
}

std::string TextStream::add(std::int32_t id) {
  pending_ += tokenizer_.bytes_of(id);
  std::string text;
  std::size_t done = 0;
  while (done < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(done);
    const Utf8Character character = first_character(rest);
    if (character.form == Utf8Form::front) break;
    if (character.form == Utf8Form::whole)
      text.append(rest.substr(0, character.bytes));
    else
      text.append(replacement);
    done += character.bytes;
  }
  pending_.erase(0, done);
  return text;
}

std::string TextStream::finish() {
  const bool unfinished = !pending_.empty();
  pending_.clear();
  return unfinished ? replacement : "";
}

}  // namespace polymoe
