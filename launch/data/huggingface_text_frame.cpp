// SPDX-License-Identifier: Apache-2.0
#include "launch/data/huggingface_text_frame.h"

#include <fmt/format.h>
#include <cstdint>

#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

std::int32_t id_of(const Json& json) {
  return static_cast<std::int32_t>(json.as_integer(0, (1 << 24) - 1));
}

TextFrame read_template(const Json& json) {
  TextFrame frame;
  bool text_seen = false;
  for (const Json& part : json.at("single").items()) {
    if (part.find("Sequence") != nullptr) {
      if (text_seen)
        throw InvalidArgument("post_processor TemplateProcessing: must have the text once only");
      text_seen = true;
      continue;
    }
    const std::string name = part.at("SpecialToken").at("id").as_string();
    const Json* token = json.at("special_tokens").find(name);
    if (token == nullptr)
      throw InvalidArgument(
          fmt::format("post_processor TemplateProcessing: special_tokens lacks '{}'", name));
    for (const Json& id : token->at("ids").items())
      (text_seen ? frame.after : frame.before).push_back(id_of(id));
  }
  if (!text_seen)
    throw InvalidArgument("post_processor TemplateProcessing: has no place for the text");
  return frame;
}

}  // namespace

TextFrame read_text_frame(const Json* json) {
  if (json == nullptr || json->is_null()) return {};
  const std::string type = json->at("type").as_string();
  if (type == "ByteLevel") return {};  // changes offsets alone
  if (type == "TemplateProcessing") return read_template(*json);
  if (type == "RobertaProcessing" || type == "BertProcessing")
    return {.before = {id_of(json->at("cls").items().at(1))},
            .after = {id_of(json->at("sep").items().at(1))}};
  if (type == "Sequence") {
    TextFrame frame;
    for (const Json& processor : json->at("processors").items()) {
      // Each puts its own around what the one before it made.
      const TextFrame outer = read_text_frame(&processor);
      frame.before.insert(frame.before.begin(), outer.before.begin(), outer.before.end());
      frame.after.insert(frame.after.end(), outer.after.begin(), outer.after.end());
    }
    return frame;
  }
  throw InvalidArgument(
      fmt::format("post_processor '{}' is not supported: must be Sequence, TemplateProcessing, "
                  "ByteLevel, RobertaProcessing or BertProcessing",
                  type));
}

}  // namespace polymoe
