// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/files/json.h"

namespace polymoe {

/// A text to be continued, and where it stands.
struct FilePrompt {
  std::string text = {};
  Json id = {};           // as the file gives it; null where it does not
  std::int64_t line = 0;  // from 1
};

/// Whether the first line that is not blank is a JSON object with a `prompt`: what has no
/// name that says it, as standard input, holds JSON lines then.
bool begins_with_json_prompt(std::string_view content);

/// The prompts of a file's content, of which `name` tells in messages: a line each, or with
/// `json_lines` one JSON object a line,
///   {"prompt": "...", "id": ...}
/// whose `id`, a text or a number, may be missing; blank lines and other members are passed over.
/// A byte order mark at the front is no text. A line as such may not be empty: it may have been meant
/// as a new document or as nothing. Throws InputFileError with name, line and what is wrong
/// there, and where there are no prompts.
std::vector<FilePrompt> parse_prompts(std::string_view content, const std::string& name,
                                      bool json_lines);

}  // namespace polymoe
