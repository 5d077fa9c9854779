// SPDX-License-Identifier: Apache-2.0
// What `polymoe tokenize` and `polymoe data` write, show and refuse, from outside.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/files/megatron_writer.h"
#include "tests/support/process.h"
#include "tests/support/program.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::expect_refusal;
using test::ProcessResult;
using test::read_bytes;
using test::run_program;
using test::write_bytes;

class DataCommands : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }

  test::TemporaryDirectory directory_;
};

TEST_F(DataCommands, TokenizeWritesAndRefuses) {
  write_bytes(path("a.txt"), "abc\n");
  write_bytes(path("b.txt"), "de");
  const auto tokenize = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"tokenize", "--output", path("out/t")});
    return run_program(arguments);
  };
  const std::string a = path("a.txt"), b = path("b.txt");
  const ProcessResult done = tokenize({"--tokenizer", "bytes", "--input", a, b});
  EXPECT_EQ(done.exit_code, 0) << done.standard_error;
  EXPECT_EQ(done.standard_error, "");
  EXPECT_NE(done.standard_output.find("2 documents, 8 tokens"), std::string::npos)
      << done.standard_output;
  const std::vector<std::uint16_t> expected = {'a', 'b', 'c', '\n', 256, 'd', 'e', 256};
  EXPECT_EQ(read_bytes(path("out/t.bin")),
            std::string(reinterpret_cast<const char*>(expected.data()), 2 * expected.size()));
  // What is there is not overwritten without a word.
  expect_refusal(tokenize({"--tokenizer=bytes", "--input", a}), 64,
                 {"t.tokenizer exists", "--force"});
  const auto anew = [&](std::vector<std::string> arguments) {
    arguments.emplace_back("--force");
    return tokenize(arguments);
  };
  EXPECT_EQ(anew({"--tokenizer=bytes", "--held-out=0.5", "--input", a, b}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(path("out/t-train.idx")));
  EXPECT_TRUE(std::filesystem::exists(path("out/t-valid.idx")));

  // Nor an input at all.
  const std::string description = read_bytes(path("out/t.tokens.json"));
  expect_refusal(anew({"--tokenizer=bytes", "--field=x", "--input", path("out/t.tokens.json")}), 64,
                 {"--output " + path("out/t.tokens.json"), "--input"});
  EXPECT_EQ(read_bytes(path("out/t.tokens.json")), description);

  expect_refusal(tokenize({"--input", a}), 64, {"--tokenizer", "--train-vocabulary"});
  expect_refusal(anew({"--tokenizer=bytes", "--input", path("absent")}), 65, {"absent"});
  expect_refusal(anew({"--tokenizer", a, "--input", a}), 65, {"a.txt", "sentencepiece"});
  // Of a single document the end is held out, if it has one.
  EXPECT_NE(anew({"--tokenizer=bytes", "--held-out=0.5", "--input", a})
                .standard_output.find("its last 2 bytes are held out"),
            std::string::npos);
  EXPECT_EQ(read_bytes(path("out/t-train.bin")), std::string("a\0b\0\0\1", 6));
  EXPECT_EQ(read_bytes(path("out/t-valid.bin")), std::string("c\0\n\0\0\1", 6));
  write_bytes(path("letter.txt"), "x");
  expect_refusal(anew({"--tokenizer=bytes", "--held-out=0.5", "--input", path("letter.txt")}), 64,
                 {"--held-out", "too short"});
  expect_refusal(tokenize({"--tokenizer=bytes", "--held-out=1.5", "--input", a}), 64,
                 {"--held-out 1.5", "(0, 1)"});
  expect_refusal(anew({"--train-vocabulary=300", "--input", a}), 64, {"--train-vocabulary 300"});
  expect_refusal(tokenize({"--train-vocabulary=1.5", "--input", a}), 64,
                 {"--train-vocabulary 1.5"});
  expect_refusal(run_program({"tokenize", "--tokenizer=bytes", "--input", a, "--output", a + "/t"}),
                 74, {"a.txt"});
}

TEST_F(DataCommands, TokenizesLinesOfJsonAndConversations) {
  write_bytes(path("a.jsonl"), "{\"id\": 1, \"text\": \"ab\"}\n{\"text\": \"c\"}\n");
  write_bytes(path("chat.jsonl"), "{\"prompt\": \"ab\", \"completion\": \"c\"}\n");
  const auto tokenize = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(),
                     {"tokenize", "--tokenizer=bytes", "--force", "--output", path("out/t")});
    return run_program(arguments);
  };
  const ProcessResult done = tokenize({"--input", path("a.jsonl")});
  EXPECT_EQ(done.exit_code, 0) << done.standard_error;
  EXPECT_NE(done.standard_output.find("2 documents, 5 tokens of 3 bytes"), std::string::npos)
      << done.standard_output;
  EXPECT_FALSE(std::filesystem::exists(path("out/t.mask.bin")));
  ASSERT_EQ(tokenize({"--chat=chatml", "--input", path("chat.jsonl")}).exit_code, 0);
  EXPECT_EQ(read_bytes(path("out/t.mask.bin")), std::string("\0\0\1\1", 4));

  expect_refusal(tokenize({"--chat=chatml", "--input", path("a.jsonl")}), 65, {"a.jsonl line 1"});
  expect_refusal(tokenize({"--chat=robot", "--input", path("a.jsonl")}), 64, {"--chat robot"});
  expect_refusal(tokenize({"--chat=auto", "--input", path("a.jsonl")}), 64, {"--chat auto"});
  expect_refusal(tokenize({"--field=body", "--input", path("a.jsonl")}), 65,
                 {"body", "fields with text: text"});
  write_bytes(path("latin.txt"), "caf\xE9 au lait");
  expect_refusal(tokenize({"--input", path("latin.txt")}), 65, {"latin.txt byte 3:", "Latin-1"});
  const ProcessResult replaced = tokenize({"--invalid=replace", "--input", path("latin.txt")});
  EXPECT_EQ(replaced.exit_code, 0);
  EXPECT_NE(replaced.standard_output.find("1 places"), std::string::npos);
  expect_refusal(tokenize({"--held-out=0.1", "--input", "-"}), 64, {"standard input"});
  write_bytes(path("empty.txt"), "");
  expect_refusal(tokenize({"--input", path("empty.txt")}), 65, {"empty.txt", "no text"});
}

TEST_F(DataCommands, ChecksAndShowsTokenFiles) {
  write_bytes(path("a.txt"), "one two");
  ASSERT_EQ(run_program(
                {"tokenize", "--tokenizer=bytes", "--input", path("a.txt"), "--output", path("a")})
                .exit_code,
            0);
  MegatronWriter writer(path("ids"), 60000);
  writer.add(std::vector<std::int32_t>{0, 70, 7, 99});
  writer.finish();
  const ProcessResult checked = run_program({"data", "check", path("a.bin"), path("ids")});
  EXPECT_EQ(checked.exit_code, 0) << checked.standard_error;
  EXPECT_NE(checked.standard_output.find("8 tokens, 1 document, ids below 257: fine"),
            std::string::npos)
      << checked.standard_output;
  expect_refusal(run_program({"data", "check", path("ids"), "--vocab=64"}), 65,
                 {"ids.bin", "70", "0 to 63"});
  const ProcessResult shown =
      run_program({"data", "show", path("a.bin"), "--window=1", "--context=3"});
  EXPECT_EQ(shown.standard_output, "tokens 3 to 6 of " + path("a.bin") + "\n two\n");
  expect_refusal(run_program({"data", "show", path("a.bin"), "--window=9"}), 64,
                 {"--window 9", "1 windows"});
  expect_refusal(run_program({"data", "show", path("ids")}), 64, {"--tokenizer"});
  const ProcessResult counted = run_program({"data", "statistics", path("a.bin")});
  EXPECT_NE(counted.standard_output.find("7 different ones, the largest 256"), std::string::npos)
      << counted.standard_output;
  expect_refusal(run_program({"data"}), 64, {"data"});
}

TEST_F(DataCommands, TokenizeKeepsTheWindowsOfManyDocuments) {
  std::string text;
  const std::int64_t documents = 262'144;  // from so many on
  for (std::int64_t i = 0; i < documents; ++i) text += i % 3 == 0 ? "a\n-\n" : "bc\n-\n";
  write_bytes(path("a.txt"), text);
  const ProcessResult done = run_program({"tokenize", "--tokenizer=bytes", "--document-separator=-",
                                          "--input", path("a.txt"), "--output", path("a")});
  EXPECT_EQ(done.exit_code, 0) << done.standard_error;
  EXPECT_NE(done.standard_output.find("262,144 documents"), std::string::npos)
      << done.standard_output;
  const std::string kept = read_bytes(path("a.windows"));
  const ProcessResult counted = run_program({"data", "windows", path("a.bin")});
  EXPECT_EQ(counted.exit_code, 0) << counted.standard_error;
  EXPECT_EQ(kept, read_bytes(path("a.windows")));
  EXPECT_EQ(run_program({"data", "check", path("a.bin")}).exit_code, 0);
  // They are of these tokens, and go where others take their place.
  write_bytes(path("b.txt"), "b");
  EXPECT_EQ(run_program({"tokenize", "--tokenizer=bytes", "--force", "--input", path("b.txt"),
                         "--output", path("a")})
                .exit_code,
            0);
  EXPECT_FALSE(std::filesystem::exists(path("a.windows")));
}

TEST_F(DataCommands, CountsWindowsAheadOfAStart) {
  write_bytes(path("a.jsonl"), "{\"text\": \"ab\"}\n{\"text\": \"cde\"}\n");
  ASSERT_EQ(run_program({"tokenize", "--tokenizer=bytes", "--input", path("a.jsonl"), "--output",
                         path("a")})
                .exit_code,
            0);
  // 2 and 3 rows: each a window of its own of 3 or 4, together one of 512.
  const ProcessResult counted =
      run_program({"data", "windows", path("a.bin"), "--context", "3", "4"});
  EXPECT_EQ(counted.exit_code, 0) << counted.standard_error;
  for (const char* part : {"a.windows:", " 1 of 512,", " 2 of 3,", " 2 of 4\n"})
    EXPECT_NE(counted.standard_output.find(part), std::string::npos) << counted.standard_output;
  EXPECT_EQ(run_program({"data", "check", path("a.bin")}).exit_code, 0);
  write_bytes(path("a.windows"), read_bytes(path("a.windows")) + "x");
  expect_refusal(run_program({"data", "check", path("a.bin")}), 65, {"a.windows", "damaged"});
  for (const char* context : {"0", "16777217", "99999999999999", "many"})
    expect_refusal(run_program({"data", "windows", path("a.bin"), "--context", context}), 64,
                   {std::string("--context ") + context, "[1, 16777216]"});
  expect_refusal(run_program({"data", "windows", path("absent")}), 65, {"absent"});
}

}  // namespace
}  // namespace polymoe
