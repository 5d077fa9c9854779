// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/data/huggingface_text_rules.h"
#include "launch/data/unicode_pattern.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

struct Span {
  std::size_t begin, end;
  bool matches;
};
/// Where a text is cut: matches and what lies between them, in order, without gaps.
using Finder = std::function<std::vector<Span>(std::string_view text)>;
enum class Behavior { removed, isolated, with_previous, with_next, contiguous };

Behavior behavior_of(const std::string& name) {
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::with_previous;
  if (name == "MergedWithNext") return Behavior::with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  throw InvalidArgument(fmt::format(
      "pre_tokenizer: behavior '{}': must be Removed, Isolated, MergedWithPrevious, MergedWithNext "
      "or Contiguous",
      name));
}

Finder pattern_finder(std::shared_ptr<UnicodePattern> pattern, bool invert) {
  return [pattern = std::move(pattern), invert](std::string_view text) {
    std::vector<Span> spans;
    std::size_t done = 0;
    pattern->each_match(text, [&](std::size_t begin, std::size_t end) {
      if (done < begin) spans.push_back({done, begin, invert});
      spans.push_back({begin, end, !invert});
      done = end;
    });
    if (done < text.size()) spans.push_back({done, text.size(), invert});
    return spans;
  };
}

/// Every character that `is_match` takes is a match.
Finder character_finder(std::function<bool(char32_t)> is_match) {
  return [is_match = std::move(is_match)](std::string_view text) {
    std::vector<Span> spans;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t begin = at;
      if (!is_match(next_code_point(text, at))) continue;
      if (done < begin) spans.push_back({done, begin, false});
      spans.push_back({begin, at, true});
      done = at;
    }
    if (done < text.size()) spans.push_back({done, text.size(), false});
    return spans;
  };
}

std::vector<Span> joined(std::vector<Span> spans, Behavior behavior) {
  std::vector<Span> result;
  switch (behavior) {
    case Behavior::isolated:
      return spans;
    case Behavior::removed:
      std::erase_if(spans, [](const Span& span) { return span.matches; });
      return spans;
    case Behavior::contiguous:
      for (const Span& span : spans)
        if (!result.empty() && result.back().matches == span.matches)
          result.back().end = span.end;
        else
          result.push_back(span);
      return result;
    case Behavior::with_previous: {
      bool matched_before = false;
      for (const Span& span : spans) {
        if (span.matches && !matched_before && !result.empty())
          result.back().end = span.end;
        else
          result.push_back(span);
        matched_before = span.matches;
      }
      return result;
    }
    case Behavior::with_next: {
      bool matched_before = false;
      for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
        if (span->matches && !matched_before && !result.empty())
          result.back().begin = span->begin;
        else
          result.push_back(*span);
        matched_before = span->matches;
      }
      std::reverse(result.begin(), result.end());
      return result;
    }
  }
  return result;
}

void cut(TextPieces& text, const Finder& finder, Behavior behavior) {
  std::vector<TextPieces::Piece> pieces;
  for (const TextPieces::Piece& piece : text.pieces)
    for (const Span& span : joined(finder(piece.text), behavior))
      if (span.begin < span.end)
        pieces.push_back({.text = piece.text.substr(span.begin, span.end - span.begin),
                          .starts_text = piece.starts_text && span.begin == 0,
                          .goes_on = piece.goes_on && span.begin == 0});
  text.pieces = std::move(pieces);
}

WordRule cutting(Finder finder, Behavior behavior) {
  return {.cut = [finder = std::move(finder), behavior](TextPieces& text) {
    cut(text, finder, behavior);
  }};
}

bool flag(const Json& json, const char* key, bool otherwise) {
  const Json* value = json.find(key);
  return value == nullptr || value->is_null() ? otherwise : value->as_bool();
}

WordRule byte_level(const Json& json) {
  // The words of GPT-2.
  static const char* const expression =
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
  const bool prefix = flag(json, "add_prefix_space", true);
  Finder words;
  if (flag(json, "use_regex", true))
    words = pattern_finder(std::make_shared<UnicodePattern>(expression), false);
  return {.cut =
              [prefix, words](TextPieces& text) {
                if (prefix)
                  for (TextPieces::Piece& piece : text.pieces)
                    if (!piece.goes_on && !piece.text.starts_with(' '))
                      piece.text = text.owned.emplace_back(" " + std::string(piece.text));
                if (words) cut(text, words, Behavior::isolated);
              },
          .byte_level = true};
}

WordRule metaspace(const Json& json) {
  const std::string mark = json.at("replacement").as_string();
  const bool blank = flag(json, "add_prefix_space", true);
  const Json* named = json.find("prepend_scheme");
  const std::string scheme = named != nullptr ? named->as_string() : blank ? "always" : "never";
  if (scheme != "always" && scheme != "first" && scheme != "never")
    throw InvalidArgument(fmt::format(
        "pre_tokenizer Metaspace: prepend_scheme '{}': must be always, first or never", scheme));
  Finder marks;
  if (flag(json, "split", true))
    marks = pattern_finder(std::make_shared<UnicodePattern>(UnicodePattern::literal(mark)), false);
  return {.cut = [mark, scheme, marks](TextPieces& text) {
    for (TextPieces::Piece& piece : text.pieces) {
      std::string& marked = text.owned.emplace_back();
      for (const char c : piece.text) c == ' ' ? marked += mark : marked += c;
      const bool wanted =
          !piece.goes_on && (scheme == "always" || (scheme == "first" && piece.starts_text));
      if (wanted && !marked.starts_with(mark)) marked.insert(0, mark);
      piece.text = marked;
    }
    if (marks) cut(text, marks, Behavior::with_next);
  }};
}

WordRule split(const Json& json) {
  const Json& pattern = json.at("pattern");
  const Json* literal = pattern.find("String");
  auto expression = std::make_shared<UnicodePattern>(
      literal != nullptr ? UnicodePattern::literal(literal->as_string())
                         : UnicodePattern(pattern.at("Regex").as_string()));
  return cutting(pattern_finder(std::move(expression), flag(json, "invert", false)),
                 behavior_of(json.at("behavior").as_string()));
}

WordRule sequence(const Json& json) {
  std::vector<WordRule> steps;
  bool bytes = false;
  for (const Json& step : json.at("pretokenizers").items()) {
    if (bytes)
      throw InvalidArgument("pre_tokenizer Sequence: ByteLevel is supported as its last one only");
    steps.push_back(make_word_rule(&step));
    bytes = steps.back().byte_level;
  }
  return {.cut =
              [steps](TextPieces& text) {
                for (const WordRule& step : steps)
                  if (step.cut) step.cut(text);
              },
          .byte_level = bytes};
}

}  // namespace

WordRule make_word_rule(const Json* json) {
  if (json == nullptr || json->is_null()) return {};
  const std::string& type = json->at("type").as_string();
  if (type == "Sequence") return sequence(*json);
  if (type == "ByteLevel") return byte_level(*json);
  if (type == "Metaspace") return metaspace(*json);
  if (type == "Split") return split(*json);
  if (type == "Digits")
    return cutting(character_finder(is_numeric), flag(*json, "individual_digits", false)
                                                     ? Behavior::isolated
                                                     : Behavior::contiguous);
  if (type == "Punctuation") {
    const Json* behavior = json->find("behavior");
    return cutting(character_finder(is_punctuation),
                   behavior != nullptr ? behavior_of(behavior->as_string()) : Behavior::isolated);
  }
  if (type == "WhitespaceSplit")
    return cutting(character_finder(is_white_space), Behavior::removed);
  if (type == "CharDelimiterSplit") {
    const char32_t delimiter = only_code_point(json->at("delimiter").as_string());
    return cutting(character_finder([delimiter](char32_t c) { return c == delimiter; }),
                   Behavior::removed);
  }
  throw InvalidArgument(
      fmt::format("pre_tokenizer '{}' is not supported: must be Sequence, ByteLevel, Metaspace, "
                  "Split, Digits, Punctuation, WhitespaceSplit or CharDelimiterSplit",
                  type));
}

}  // namespace polymoe
