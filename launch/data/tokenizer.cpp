// SPDX-License-Identifier: Apache-2.0
#include "launch/data/tokenizer.h"

#include "launch/data/tokenizer_sentencepiece.h"
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

enum class Form { whole, front, broken };

struct Character {
  Form form;
  std::size_t bytes;  // of the character, or of what is broken
};

// The UTF-8 character at the front of `text`, which is not empty (Unicode 15, table 3-7).
Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Form::whole, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Form::broken, 1};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Form::front, text.size()};
    unsigned char low = 0x80, high = 0xBF;
    if (i == 1 && lead == 0xE0) low = 0xA0;
    if (i == 1 && lead == 0xED) high = 0x9F;
    if (i == 1 && lead == 0xF0) low = 0x90;
    if (i == 1 && lead == 0xF4) high = 0x8F;
    if (byte(i) < low || byte(i) > high) return {Form::broken, i};
  }
  return {Form::whole, length};
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& name) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  return load_sentencepiece(name);
}

std::string TextStream::add(std::int32_t id) {
  pending_ += tokenizer_.bytes_of(id);
  std::string text;
  std::size_t done = 0;
  while (done < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(done);
    const Character character = first_character(rest);
    if (character.form == Form::front) break;
    if (character.form == Form::whole)
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
