// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/prompt_file.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

TEST(PromptFile, HasAPromptALine) {
  const auto prompts = parse_prompts("one\r\n  two \n{\"prompt\": 3}", "p.txt", false);
  ASSERT_EQ(prompts.size(), 3U);
  EXPECT_EQ(prompts[0].text, "one");
  EXPECT_EQ(prompts[1].text, "  two ");
  EXPECT_EQ(prompts[2].text, "{\"prompt\": 3}");
  EXPECT_EQ(prompts[2].line, 3);
  EXPECT_TRUE(prompts[2].id.is_null());
}

TEST(PromptFile, TakesAByteOrderMarkForNoText) {
  EXPECT_EQ(parse_prompts("\xEF\xBB\xBFone", "p.txt", false)[0].text, "one");
  EXPECT_EQ(parse_prompts("\xEF\xBB\xBF{\"prompt\": \"one\"}", "p", true)[0].text, "one");
  EXPECT_TRUE(begins_with_json_prompt("\xEF\xBB\xBF{\"prompt\": \"one\"}"));
}

TEST(PromptFile, OrAnObjectALine) {
  const auto prompts = parse_prompts(
      "{\"prompt\": \"a\\nb\", \"id\": \"x\", \"more\": [1]}\n \n{\"id\": 7, \"prompt\": \"\"}\n",
      "p.jsonl", true);
  ASSERT_EQ(prompts.size(), 2U);
  EXPECT_EQ(prompts[0].text, "a\nb");
  EXPECT_EQ(prompts[0].id.as_string(), "x");
  EXPECT_EQ(prompts[1].text, "");
  EXPECT_EQ(prompts[1].id.as_integer(), 7);
  EXPECT_EQ(prompts[1].line, 3);
}

TEST(PromptFile, ShowsByItsFirstLineWhetherItHoldsObjects) {
  EXPECT_TRUE(begins_with_json_prompt("\n {\"id\": 1, \"prompt\": \"a\"}\nrest"));
  EXPECT_TRUE(begins_with_json_prompt("{\"prompt\": 3}"));
  for (const char* text : {"", "\n\n", "one", "{\"text\": \"a\"}", "[\"prompt\"]", "{\"prompt\"",
                           "one\n{\"prompt\": \"a\"}", "{\"prompt\": \"\xE9\"}"})
    EXPECT_FALSE(begins_with_json_prompt(text)) << text;
}

TEST(PromptFile, NamesTheLineAndItsFault) {
  const auto message = [](const std::string& content, bool json_lines) {
    return test::message_of<InputFileError>([&] { parse_prompts(content, "p", json_lines); });
  };
  EXPECT_EQ(message("", false), "p: has no prompts");
  EXPECT_EQ(message("\n \n", true), "p: has no prompts");
  EXPECT_EQ(message("one\n\ntwo", false).substr(0, 19), "p, line 2: is empty");
  EXPECT_EQ(message("one\n\xE9", false), "p, line 2: is not UTF-8");
  EXPECT_EQ(message("{\"prompt\": \"\xE9\"}", true), "p, line 1: is not UTF-8");
  EXPECT_EQ(message("[1]", true), "p, line 1: is not a JSON object");
  EXPECT_EQ(message("{\"text\": \"a\"}", true), "p, line 1: has no prompt");
  EXPECT_EQ(message("{\"prompt\": 1}", true), "p, line 1: prompt: must be a string");
  EXPECT_EQ(message("{\"prompt\": \"a\", \"id\": []}", true),
            "p, line 1: id: must be a string or a number");
  EXPECT_EQ(message("{\"prompt\": \"a\", \"id\": true}", true),
            "p, line 1: id: must be a string or a number");
  EXPECT_NE(message("{\"prompt\": \"a\"}\n{\"prompt\"", true).find("line 2"), std::string::npos);
}

}  // namespace
}  // namespace polymoe
