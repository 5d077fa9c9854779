// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/files/json.h"

namespace polymoe {

/// How the turns of a conversation become text.
///   chatml  <|im_start|>ROLE\n TEXT <|im_end|>\n
///   llama3  <|begin_of_text|>, then <|start_header_id|>ROLE<|end_header_id|>\n\n TEXT <|eot_id|>
///   olmo    <|endoftext|>, then <|ROLE|>\n TEXT \n, the assistant's with <|endoftext|> before \n
///   segments  another program has written them as text already (launch/chat/render)
enum class ChatTemplate : std::uint8_t { chatml, llama3, olmo, segments };

/// The template of that name; nothing where none has it.
std::optional<ChatTemplate> parse_chat_template(const std::string& name);

/// The one whose marks the chat_template in the tokenizer_config.json beside a tokenizer has; the
/// tokenizer as load_tokenizer takes it. Throws InvalidArgument where there is none, or it is of
/// another kind.
ChatTemplate find_chat_template(const std::string& tokenizer);

/// Text, and whether the model is to learn to say it.
struct ChatSegment {
  std::string text;
  bool counted = false;
};

/// The text of {"messages": [{"role", "content"}, ...]}, in which the assistant's turns count with
/// the mark that ends them, or of {"prompt", "completion"}, whose texts follow one another as they
/// are and of which the completion counts. With ChatTemplate::segments the texts of {"segments":
/// [{"text", "label"}, ...]}, of which those with the label true count, in the place of messages.
/// Throws InputFileError naming `origin` for another form, where nothing counts, and for {"error"},
/// by which the program that writes segments says that it has failed.
std::vector<ChatSegment> render_chat(const Json& record, ChatTemplate form,
                                     const std::string& origin);

}  // namespace polymoe
