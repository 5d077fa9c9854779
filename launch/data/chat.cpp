// SPDX-License-Identifier: Apache-2.0
#include "launch/data/chat.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/data/tokenizer_huggingface.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

constexpr const char* roles[] = {"system", "user", "assistant", "tool"};

struct Turn {
  std::string role, text;
};

/// A text, or the list of texts into which transformers' processors cut one.
std::string text_of(const Json& content) {
  if (!content.is_array()) return content.as_string();
  std::string text;
  for (const Json& part : content.items()) {
    if (part.at("type").as_string() != "text")
      throw InvalidArgument("content of type " + part.at("type").as_string() +
                            ": only text can be trained on");
    text += part.at("text").as_string();
  }
  return text;
}

std::vector<Turn> turns_of(const Json& messages) {
  std::vector<Turn> turns;
  for (const Json& message : messages.items()) {
    Turn turn{message.at("role").as_string(), text_of(message.at("content"))};
    if (std::find(std::begin(roles), std::end(roles), turn.role) == std::end(roles))
      throw InvalidArgument(
          fmt::format("the role '{}': must be {}", turn.role, fmt::join(roles, ", ")));
    turns.push_back(std::move(turn));
  }
  return turns;
}

std::vector<ChatSegment> render(const std::vector<Turn>& turns, ChatTemplate form) {
  std::vector<ChatSegment> segments;
  const auto add = [&](const std::string& text, bool counted) {
    if (text.empty()) return;
    if (!segments.empty() && segments.back().counted == counted)
      segments.back().text += text;
    else
      segments.push_back({text, counted});
  };
  if (form == ChatTemplate::llama3) add("<|begin_of_text|>", false);
  if (form == ChatTemplate::olmo) add("<|endoftext|>", false);
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const auto& [role, text] = turns[i];
    const bool counted = role == "assistant";
    switch (form) {
      case ChatTemplate::chatml:
        add("<|im_start|>" + role + "\n", false);
        add(text + "<|im_end|>", counted);
        add("\n", false);
        break;
      case ChatTemplate::llama3:
        add("<|start_header_id|>" + role + "<|end_header_id|>\n\n", false);
        add(text + "<|eot_id|>", counted);
        break;
      case ChatTemplate::olmo:
        add("<|" + role + "|>\n", false);
        add(text, counted);
        // The id that ends every document ends the last turn.
        if (counted && i + 1 < turns.size()) add("<|endoftext|>", true);
        if (!counted || i + 1 < turns.size()) add("\n", false);
        break;
      case ChatTemplate::segments:
        break;  // has no turns
    }
  }
  return segments;
}

/// What launch/chat/render writes.
std::vector<ChatSegment> read_segments(const Json& record) {
  if (const Json* failure = record.find("error"))
    throw InvalidArgument("launch/chat/render ended with an error: " + failure->as_string());
  if (record.find("messages") != nullptr)
    throw InvalidArgument("has \"messages\", which launch/chat/render turns into \"segments\"");
  std::vector<ChatSegment> segments;
  for (const Json& segment : record.at("segments").items())
    segments.push_back({segment.at("text").as_string(), segment.at("label").as_bool()});
  return segments;
}

}  // namespace

std::optional<ChatTemplate> parse_chat_template(const std::string& name) {
  if (name == "chatml") return ChatTemplate::chatml;
  if (name == "llama3") return ChatTemplate::llama3;
  if (name == "olmo") return ChatTemplate::olmo;
  if (name == "segments") return ChatTemplate::segments;
  return std::nullopt;
}

ChatTemplate find_chat_template(const std::string& tokenizer) {
  // PREFIX.tokenizer.json has PREFIX.tokenizer_config.json, DIR/tokenizer.*
  // DIR/tokenizer_config.json.
  std::string beside = tokenizer;
  if (beside.ends_with("tokenizer.json")) beside.replace(beside.size() - 5, 5, "_config.json");
  for (const fs::path& path :
       {fs::path(beside), fs::path(tokenizer).parent_path() / "tokenizer_config.json"}) {
    if (path == fs::path(tokenizer) || !fs::exists(path)) continue;
    const Json config = parse_json(read_huggingface_config(path), path.string());
    const Json* found = config.find("chat_template");
    if (found == nullptr || !found->is_string()) continue;
    const std::string& text = found->as_string();
    const auto has = [&](const char* mark) { return text.find(mark) != std::string::npos; };
    if (has("<|im_start|>")) return ChatTemplate::chatml;
    if (has("<|start_header_id|>")) return ChatTemplate::llama3;
    if (has("<|user|>") && has("<|assistant|>")) return ChatTemplate::olmo;
    throw InvalidArgument(fmt::format(
        "--chat auto: the chat_template of {} is none of chatml, llama3 and olmo. Another program "
        "runs it: launch/chat/render --tokenizer {} --output chats.segments.gz CHATS; polymoe "
        "tokenize --chat segments --input chats.segments.gz ... (docs/finetuning.md)",
        path.string(), path.string()));
  }
  throw InvalidArgument(
      "--chat auto: there is no tokenizer_config.json with a chat_template beside " + tokenizer +
      "; name one by --chat chatml, llama3 or olmo");
}

std::vector<ChatSegment> render_chat(const Json& record, ChatTemplate form,
                                     const std::string& origin) {
  try {
    std::vector<ChatSegment> segments;
    if (record.find("prompt") != nullptr && record.find("messages") == nullptr) {
      segments = {{record.at("prompt").as_string(), false},
                  {record.at("completion").as_string(), true}};
    } else if (form == ChatTemplate::segments) {
      segments = read_segments(record);
    } else if (const Json* messages = record.find("messages")) {
      segments = render(turns_of(*messages), form);
    } else {
      throw InvalidArgument("has neither \"messages\" nor \"prompt\" and \"completion\"");
    }
    if (std::none_of(segments.begin(), segments.end(),
                     [](const auto& segment) { return segment.counted; }))
      throw InvalidArgument(form == ChatTemplate::segments
                                ? "no segment has the label true: there is nothing to learn"
                                : "no turn is the assistant's: there is nothing to learn");
    return segments;
  } catch (const InvalidArgument& error) {
    throw InputFileError(origin, error.what());
  }
}

}  // namespace polymoe
