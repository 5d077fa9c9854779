// SPDX-License-Identifier: Apache-2.0
#include "launch/data/part_encoder.h"

#include <fmt/format.h>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "launch/data/chat.h"
#include "launch/data/document_stream.h"
#include "launch/data/tokenizer.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

/// The first byte that is no UTF-8, and how many places there are.
struct Broken {
  std::size_t first = 0;
  std::int64_t places = 0;
};

Broken find_broken(std::string_view text) {
  Broken broken;
  for (std::size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Character character = first_character(text.substr(at));
    if (character.form != Utf8Form::whole && broken.places++ == 0) broken.first = at;
    at += character.bytes;
  }
  return broken;
}

/// What a text that is no UTF-8 may be.
std::string looks_like(std::string_view text) {
  std::size_t zeros = 0, controls = 0, single = 0, high = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    zeros += byte == 0;
    controls += byte < 9 || (byte > 13 && byte < 32);
    if (byte < 0x80) continue;
    ++high;
    const bool alone = (i == 0 || static_cast<unsigned char>(text[i - 1]) < 0x80) &&
                       (i + 1 == text.size() || static_cast<unsigned char>(text[i + 1]) < 0x80);
    single += alone;
  }
  if (4 * zeros > text.size()) return "UTF-16 without its mark: convert it by iconv";
  if (20 * controls > text.size()) return "binary data, not text";
  if (2 * single > high) return "Latin-1 or Windows-1252: convert it, e.g. by iconv -f latin1";
  return "another encoding, or damaged text: convert it by iconv";
}

}  // namespace

std::int64_t PartEncoder::check(std::string& text, const DocumentPart& part) const {
  const Broken broken = find_broken(text);
  if (broken.places == 0) return 0;
  if (!settings_.replace_invalid)
    throw InputFileError(
        fmt::format("{} byte {}", part.origin,
                    part.offset + static_cast<std::int64_t>(broken.first)),
        fmt::format("is no UTF-8 (0x{:02x}); it looks like {}, or use --invalid replace",
                    static_cast<unsigned char>(text[broken.first]), looks_like(text)));
  text = valid_utf8(text);
  return broken.places;
}

std::vector<ChatSegment> PartEncoder::segments_of(const DocumentPart& part) const {
  if (!part.json) {
    if (settings_.chat)
      throw InputFileError(part.origin, "--chat: conversations are read from lines of JSON only");
    return {{part.text, false}};
  }
  const Json record =
      parse_json(settings_.replace_invalid ? valid_utf8(part.text) : part.text, part.origin);
  if (!record.is_object()) throw InputFileError(part.origin, "is no JSON object");
  if (settings_.chat) return render_chat(record, *settings_.chat, part.origin);
  const Json* field = record.find(settings_.field);
  if (field == nullptr || !field->is_string()) {
    std::vector<std::string> keys;
    for (const Json::Member& member : record.members())
      if (member.value.is_string()) keys.push_back(member.key);
    throw InputFileError(part.origin,
                         fmt::format("has no text in the field \"{}\" (--field); fields with text: "
                                     "{}",
                                     settings_.field, fmt::join(keys, ", ")));
  }
  return {{field->as_string(), false}};
}

EncodedPart PartEncoder::encode(const DocumentPart& part, const Tokenizer& tokenizer) const {
  EncodedPart encoded;
  if (part.json && settings_.replace_invalid) encoded.replaced = find_broken(part.text).places;
  bool counted = false;
  if (part.first && !settings_.chat) encoded.ids = tokenizer.before_text();
  for (ChatSegment& segment : segments_of(part)) {
    encoded.replaced += check(segment.text, part);
    encoded.bytes += static_cast<std::int64_t>(segment.text.size());
    if (settings_.chat)
      tokenizer.encode_on(segment.text, encoded.ids);
    else
      tokenizer.encode(segment.text, encoded.ids);
    counted = segment.counted;
    if (settings_.chat) encoded.counted.resize(encoded.ids.size(), counted ? 1 : 0);
  }
  if (part.last) {
    if (!settings_.chat) {
      std::vector<std::int32_t> after = tokenizer.after_text();
      if (!after.empty() && after.back() == tokenizer.end_of_document()) after.pop_back();
      encoded.ids.insert(encoded.ids.end(), after.begin(), after.end());
    }
    // A template may have written it.
    const bool ended =
        settings_.chat && !encoded.ids.empty() && encoded.ids.back() == tokenizer.end_of_document();
    if (!ended) encoded.ids.push_back(tokenizer.end_of_document());
    // Who learns to answer learns to stop.
    if (settings_.chat) encoded.counted.resize(encoded.ids.size(), counted ? 1 : 0);
  }
  return encoded;
}

std::string PartEncoder::text_of(const DocumentPart& part) const {
  std::string text;
  for (const ChatSegment& segment : segments_of(part)) text += segment.text;
  check(text, part);
  return text;
}

}  // namespace polymoe
