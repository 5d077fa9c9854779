// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/prompt_file.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

/// Without the mark that some programs put at the front of UTF-8.
std::string_view without_byte_order_mark(std::string_view content) {
  constexpr std::string_view mark = "\xEF\xBB\xBF";
  return content.starts_with(mark) ? content.substr(mark.size()) : content;
}

/// Throws InvalidArgument.
FilePrompt read_object(std::string_view line, const std::string& place) {
  const Json json = parse_json(line, place);
  if (!json.is_object()) throw InvalidArgument("is not a JSON object");
  const Json* const text = json.find("prompt");
  if (text == nullptr) throw InvalidArgument("has no prompt");
  if (!text->is_string()) throw InvalidArgument("prompt: must be a string");
  FilePrompt prompt{.text = text->as_string()};
  if (const Json* const id = json.find("id")) {
    if (id->is_object() || id->is_array() || id->is_bool())
      throw InvalidArgument("id: must be a string or a number");
    prompt.id = *id;
  }
  return prompt;
}

}  // namespace

bool begins_with_json_prompt(std::string_view content) {
  content = without_byte_order_mark(content);
  while (!content.empty()) {
    const std::size_t end = std::min(content.find('\n'), content.size());
    const std::string_view line = content.substr(0, end);
    content.remove_prefix(std::min(end + 1, content.size()));
    if (is_blank(line)) continue;
    try {
      const Json json = parse_json(line, "");
      return json.is_object() && json.find("prompt") != nullptr;
    } catch (const InputFileError&) {
      return false;
    }
  }
  return false;
}

std::vector<FilePrompt> parse_prompts(std::string_view content, const std::string& name,
                                      bool json_lines) {
  content = without_byte_order_mark(content);
  std::vector<FilePrompt> prompts;
  for (std::int64_t number = 1; !content.empty(); ++number) {
    const std::size_t end = std::min(content.find('\n'), content.size());
    std::string_view line = content.substr(0, end);
    content.remove_prefix(std::min(end + 1, content.size()));
    const std::string place = fmt::format("{}, line {}", name, number);
    if (!is_valid_utf8(line)) throw InputFileError(place, "is not UTF-8");
    if (json_lines) {
      if (is_blank(line)) continue;
      try {
        prompts.push_back(read_object(line, place));
      } catch (const InputFileError&) {
        throw;
      } catch (const InvalidArgument& error) {
        throw InputFileError(place, error.what());
      }
    } else {
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty())
        throw InputFileError(place,
                             "is empty: a prompt must have text; a new document is "
                             "{\"prompt\": \"\"} in a .jsonl file");
      prompts.push_back({.text = std::string(line)});
    }
    prompts.back().line = number;
  }
  if (prompts.empty()) throw InputFileError(name, "has no prompts");
  return prompts;
}

}  // namespace polymoe
