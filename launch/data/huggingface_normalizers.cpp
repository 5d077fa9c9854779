// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launch/data/huggingface_text_rules.h"
#include "launch/data/unicode_pattern.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

Normalizer form_of(NormalForm form) {
  return [form](std::string& text) { text = normalized(text, form); };
}

void drop_marks(std::string& text) {
  std::string kept;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (!is_mark(c)) append_code_point(kept, c);
  }
  text = std::move(kept);
}

Normalizer strip(bool left, bool right) {
  return [left, right](std::string& text) {
    std::size_t begin = text.size(), end = 0;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t from = at;
      if (is_white_space(next_code_point(text, at))) continue;
      begin = std::min(begin, from);
      end = at;
    }
    if (!left) begin = 0;
    if (!right) end = text.size();
    text = begin < end ? text.substr(begin, end - begin) : std::string();
  };
}

Normalizer replace(const Json& json) {
  const Json& pattern = json.at("pattern");
  const Json* literal = pattern.find("String");
  const auto expression = std::make_shared<UnicodePattern>(
      literal != nullptr ? UnicodePattern::literal(literal->as_string())
                         : UnicodePattern(pattern.at("Regex").as_string()));
  return [expression, content = json.at("content").as_string()](std::string& text) {
    std::string result;
    std::size_t done = 0;
    expression->each_match(text, [&](std::size_t begin, std::size_t end) {
      result.append(text, done, begin - done);
      result += content;
      done = end;
    });
    result.append(text, done);
    text = std::move(result);
  };
}

/// `within`: for text behind other text.
Normalizer normalizer_of(const Json* json, bool within) {
  if (json == nullptr || json->is_null()) return nullptr;
  const std::string& type = json->at("type").as_string();
  if (type == "Sequence") {
    std::vector<Normalizer> steps;
    for (const Json& step : json->at("normalizers").items())
      if (Normalizer made = normalizer_of(&step, within)) steps.push_back(std::move(made));
    return [steps](std::string& text) {
      for (const Normalizer& step : steps) step(text);
    };
  }
  if (type == "NFC") return form_of(NormalForm::nfc);
  if (type == "NFD") return form_of(NormalForm::nfd);
  if (type == "NFKC") return form_of(NormalForm::nfkc);
  if (type == "NFKD") return form_of(NormalForm::nfkd);
  if (type == "Lowercase") return [](std::string& text) { text = lower_case(text); };
  if (type == "StripAccents") return drop_marks;
  if (type == "Strip")
    return strip(json->at("strip_left").as_bool(), json->at("strip_right").as_bool());
  if (type == "Replace") return replace(*json);
  if (type == "Prepend" && within) return nullptr;
  if (type == "Prepend")
    return [front = json->at("prepend").as_string()](std::string& text) {
      if (!text.empty()) text.insert(0, front);
    };
  throw InvalidArgument(
      fmt::format("normalizer '{}' is not supported: must be Sequence, NFC, NFD, NFKC, NFKD, "
                  "Lowercase, StripAccents, Strip, Replace or Prepend",
                  type));
}

}  // namespace

Normalizer make_normalizer(const Json* json) { return normalizer_of(json, false); }

Normalizer make_normalizer_within(const Json* json) { return normalizer_of(json, true); }

}  // namespace polymoe
