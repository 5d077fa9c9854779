// SPDX-License-Identifier: Apache-2.0
#include "launch/data/chat.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "launch/data/part_encoder.h"
#include "launch/data/tokenizer.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;

constexpr const char* conversation =
    R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"}, {"role": "user", "content": "So?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}]})";

/// The text with what counts in brackets.
std::string marked(const char* record, ChatTemplate form) {
  std::string text;
  for (const ChatSegment& segment : render_chat(parse_json(record, "r"), form, "r"))
    text += segment.counted ? "[" + segment.text + "]" : segment.text;
  return text;
}

TEST(Chat, OnlyTheAssistantsTurnsAndTheirEndsCount) {
  EXPECT_EQ(marked(conversation, ChatTemplate::chatml),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
            "<|im_start|>assistant\n[4<|im_end|>]\n<|im_start|>user\nSo?<|im_end|>\n"
            "<|im_start|>assistant\n[Yes.<|im_end|>]\n");
  EXPECT_EQ(marked(conversation, ChatTemplate::llama3),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n[4<|eot_id|>]"
            "<|start_header_id|>user<|end_header_id|>\n\nSo?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n[Yes.<|eot_id|>]");
  EXPECT_EQ(marked(conversation, ChatTemplate::olmo),
            "<|endoftext|><|system|>\nBe brief.\n<|user|>\n2+2?\n<|assistant|>\n[4<|endoftext|>]\n"
            "<|user|>\nSo?\n<|assistant|>\n[Yes.]");
  EXPECT_EQ(marked(R"({"prompt": "2+2=", "completion": "4"})", ChatTemplate::chatml), "2+2=[4]");
}

TEST(Chat, TextsThatAreWrittenAlreadyAreTaken) {
  EXPECT_EQ(marked(R"({"segments": [{"text": "a", "label": false}, {"text": "b", "label": true},
                      {"text": "c", "label": true}, {"text": "d", "label": false}]})",
                   ChatTemplate::segments),
            "a[b][c]d");
  EXPECT_EQ(marked(R"({"prompt": "2+2=", "completion": "4"})", ChatTemplate::segments), "2+2=[4]");
  const auto refusal = [](const char* record) {
    return message_of<InputFileError>([&] { marked(record, ChatTemplate::segments); });
  };
  for (const auto& [record, part] : std::vector<std::pair<const char*, const char*>>{
           {R"({"error": "no robots"})", "ended with an error: no robots"},
           {conversation, "launch/chat/render turns"},
           {R"({"segments": [{"text": "a", "label": false}]})", "no segment has the label true"},
           {R"({"segments": [{"text": "a"}]})", "label"},
           {R"({"segments": [{"text": "a", "label": 1}]})", "true or false, found 1"},
           {R"({"text": "a"})", "segments"}})
    EXPECT_NE(refusal(record).find(part), std::string::npos) << refusal(record);
  EXPECT_THROW(marked(R"({"segments": []})", ChatTemplate::chatml), InputFileError);
}

TEST(Chat, RefusesOtherForms) {
  for (const char* record :
       {R"({"text": "a"})", R"({"messages": [{"role": "robot", "content": "a"}]})",
        R"({"messages": [{"role": "user", "content": "a"}]})", R"({"messages": 3})",
        R"({"prompt": "a"})",
        R"({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]})"})
    EXPECT_THROW(marked(record, ChatTemplate::chatml), InputFileError) << record;
}

TEST(Chat, TheTemplateIsFoundByItsMarks) {
  const test::TemporaryDirectory directory;
  const std::string tokenizer = (directory.path() / "tokenizer.json").string();
  EXPECT_THROW(find_chat_template(tokenizer), InvalidArgument);
  const auto found = [&](const std::string& text) {
    test::write_bytes(directory.path() / "tokenizer_config.json",
                      R"({"chat_template": ")" + text + "\"}");
    return find_chat_template(tokenizer);
  };
  EXPECT_EQ(found("a <|im_start|> b"), ChatTemplate::chatml);
  EXPECT_EQ(found("<|start_header_id|>"), ChatTemplate::llama3);
  EXPECT_EQ(found("<|user|> <|assistant|>"), ChatTemplate::olmo);
  const std::string refusal = message_of<InvalidArgument>([&] { found("[INST]"); });
  for (const char* part : {"tokenizer_config.json is none of chatml",
                           "launch/chat/render --tokenizer", "polymoe tokenize --chat segments"})
    EXPECT_NE(refusal.find(part), std::string::npos) << refusal;
  // As transformers 5 writes it, and it goes before.
  test::write_bytes(directory.path() / "chat_template.jinja", "a <|im_start|> b\n");
  for (const char* config : {"{}", R"({"chat_template": "<|start_header_id|>"})"}) {
    test::write_bytes(directory.path() / "tokenizer_config.json", config);
    EXPECT_EQ(find_chat_template(tokenizer), ChatTemplate::chatml) << config;
  }
}

TEST(PartEncoder, MarksTheTokensThatCountAndTheEndBehindThem) {
  const auto bytes = load_tokenizer("bytes");
  const PartEncoder encoder({.field = "", .chat = ChatTemplate::chatml, .replace_invalid = false});
  const EncodedPart part = encoder.encode({.text = R"({"prompt": "ab", "completion": "c"})",
                                           .origin = "f line 1",
                                           .document = 0,
                                           .json = true,
                                           .last = true},
                                          *bytes);
  EXPECT_EQ(part.ids, (std::vector<std::int32_t>{'a', 'b', 'c', 256}));
  EXPECT_EQ(part.counted, (std::vector<std::uint8_t>{0, 0, 1, 1}));
}

TEST(PartEncoder, SaysWhatTextLooksLikeThatIsNoUtf8) {
  const auto bytes = load_tokenizer("bytes");
  const auto part = [](const std::string& text) {
    return DocumentPart{.text = text, .origin = "f", .offset = 100, .last = true};
  };
  const PartEncoder strict({.field = "text", .chat = {}, .replace_invalid = false});
  const auto refusal = [&](const std::string& text) {
    return message_of<InputFileError>([&] { strict.encode(part(text), *bytes); });
  };
  EXPECT_NE(refusal("caf\xE9 au lait").find("f byte 103: is no UTF-8 (0xe9)"), std::string::npos)
      << refusal("caf\xE9 au lait");
  EXPECT_NE(refusal("caf\xE9 au lait").find("Latin-1"), std::string::npos);
  EXPECT_NE(refusal(std::string("a\0b\0\xE9\0d\0", 8)).find("UTF-16"), std::string::npos);
  EXPECT_NE(refusal("\x01\x02\x03\xFF\x05").find("binary"), std::string::npos);
  const PartEncoder lenient({.field = "text", .chat = {}, .replace_invalid = true});
  const EncodedPart replaced = lenient.encode(part("a\xE9z"), *bytes);
  EXPECT_EQ(replaced.replaced, 1);
  EXPECT_EQ(replaced.ids, (std::vector<std::int32_t>{'a', 0xEF, 0xBF, 0xBD, 'z', 256}));
}

TEST(PartEncoder, TakesTheTextOfAField) {
  const auto bytes = load_tokenizer("bytes");
  const PartEncoder encoder({.field = "body", .chat = {}, .replace_invalid = false});
  const auto ids = [&](const std::string& line) {
    return encoder.encode({.text = line, .origin = "f line 7", .json = true, .last = false}, *bytes)
        .ids;
  };
  EXPECT_EQ(ids(R"({"id": 3, "body": "x\ny"})"), (std::vector<std::int32_t>{'x', '\n', 'y'}));
  const std::string message = message_of<InputFileError>([&] { ids(R"({"text": "x"})"); });
  EXPECT_NE(message.find("f line 7"), std::string::npos) << message;
  EXPECT_NE(message.find("\"body\""), std::string::npos) << message;
  EXPECT_NE(message.find("text"), std::string::npos) << message;
  EXPECT_THROW(ids("[1]"), InputFileError);
  EXPECT_THROW(ids("{"), InputFileError);
}

}  // namespace
}  // namespace polymoe
