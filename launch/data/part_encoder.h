// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/data/chat.h"
#include "launch/data/document_stream.h"
#include "launch/data/tokenizer.h"

namespace polymoe {

/// The ids of a part of a document.
struct EncodedPart {
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> counted;  // of each id 0 or 1, with a chat template; else empty
  std::int64_t bytes = 0;             // of text
  std::int64_t replaced = 0;          // places that were no UTF-8
};

/// Turns parts of documents into ids. Thread-safe.
class PartEncoder {
 public:
  struct Settings {
    std::string field;                 // of a line of JSON: where its text is
    std::optional<ChatTemplate> chat;  // or it is a conversation
    bool replace_invalid = false;      // what is no UTF-8 becomes U+FFFD
  };
  explicit PartEncoder(Settings settings) : settings_(std::move(settings)) {}

  /// What the tokenizer puts before and behind every text stands there, unless a chat template says
  /// it all; the end-of-document id follows the last part, once, unless a conversation's text ends
  /// with it. Throws InputFileError with file and place for
  /// text that is not UTF-8 and what it looks like, and for JSON of another form.
  EncodedPart encode(const DocumentPart& part, const Tokenizer& tokenizer) const;
  /// All of its text, checked in the same way.
  std::string text_of(const DocumentPart& part) const;

 private:
  std::vector<ChatSegment> segments_of(const DocumentPart& part) const;
  std::int64_t check(std::string& text, const DocumentPart& part) const;

  Settings settings_;
};

}  // namespace polymoe
