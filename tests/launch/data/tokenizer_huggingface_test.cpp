// SPDX-License-Identifier: Apache-2.0
#include "launch/data/tokenizer_huggingface.h"

#include <gtest/gtest.h>

#include <sstream>

#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;

const std::string fixtures = POLYMOE_FIXTURES "/tokenizers/";

/// What tests/reference/huggingface_tokenizers.py wrote of one family.
class TokenizerFamilyTest : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerFamilyTest, IdsAndTextAreThoseOfTheTokenizersPackage) {
  const auto tokenizer = load_tokenizer(fixtures + GetParam() + ".json");
  std::istringstream cases(read_file(fixtures + GetParam() + ".cases.jsonl", 1 << 24));
  int count = 0;
  for (std::string line; std::getline(cases, line); ++count) {
    const Json json = parse_json(line, "cases");
    std::vector<std::int32_t> expected, ids;
    for (const Json& id : json.at("ids").items())
      expected.push_back(static_cast<std::int32_t>(id.as_integer()));
    tokenizer->encode(json.at("text").as_string(), ids);
    EXPECT_EQ(ids, expected) << json.at("text").dump();
    EXPECT_EQ(tokenizer->decode(expected), json.at("decoded").as_string())
        << json.at("text").dump();
  }
  EXPECT_GE(count, 100);
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerFamilyTest,
                         testing::Values("gpt2", "gpt_neox", "llama3", "qwen2", "digits", "llama2",
                                         "mistral", "unknown", "unigram", "unigram_bytes"),
                         [](const auto& family) { return std::string(family.param); });

TEST(HuggingFaceTokenizer, StreamsWholeCharacters) {
  const auto tokenizer = load_tokenizer(fixtures + "llama3.json");
  std::vector<std::int32_t> ids;
  const std::string text = "你好 😀 café\n";
  tokenizer->encode(text, ids);
  TextStream stream(*tokenizer);
  std::string streamed;
  for (const std::int32_t id : ids) streamed += stream.add(id);
  EXPECT_EQ(streamed + stream.finish(), text);
}

TEST(HuggingFaceTokenizer, BytesThatAreNoTextBecomeTheReplacementCharacter) {
  const auto tokenizer = load_tokenizer(fixtures + "gpt2.json");
  std::vector<std::int32_t> broken, replaced;
  tokenizer->encode("a\xFF\xE4\xBD", broken);
  tokenizer->encode("a\xEF\xBF\xBD\xEF\xBF\xBD", replaced);
  EXPECT_EQ(broken, replaced);
}

class TokenizerFileTest : public testing::Test {
 protected:
  /// A file of byte pairs without merges, with `more` members.
  std::string file(const std::string& more, const std::string& model = R"("type": "BPE")") {
    const std::filesystem::path path = directory_.path() / "tokenizer.json";
    test::write_bytes(path, R"({"model": {)" + model +
                                R"(, "vocab": {"a": 0, "</s>": 1, "b": 2}, "merges": []})" + more +
                                "}");
    return path.string();
  }
  void refuse(const std::string& path, const std::string& words) {
    const std::string message = message_of<InputFileError>([&] { load_tokenizer(path); });
    EXPECT_NE(message.find(words), std::string::npos) << message;
  }
  test::TemporaryDirectory directory_;
};

TEST_F(TokenizerFileTest, NamesWhatIsNotSupported) {
  refuse(file("", R"("type": "WordPiece")"), "model 'WordPiece' is not supported: must be BPE");
  refuse(file(R"(, "normalizer": {"type": "Precompiled"})"), "normalizer 'Precompiled' is not");
  refuse(file(R"(, "pre_tokenizer": {"type": "UnicodeScripts"})"), "'UnicodeScripts' is not");
  refuse(file(R"(, "decoder": {"type": "CTC"})"), "decoder 'CTC' is not supported");
  refuse(file(R"(, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\w+"},
                 "behavior": "Isolated", "invert": false})"),
         "\\w is not supported");
  refuse(file(R"(, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"},
                 "behavior": "Isolated", "invert": false})"),
         "regular expression '(a'");
  refuse(file("", R"("type": "BPE", "dropout": 0.1)"), "dropout");
}

TEST_F(TokenizerFileTest, NamesWhatIsWrong) {
  const std::filesystem::path path = directory_.path() / "other.json";
  test::write_bytes(path, R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}})");
  refuse(path.string(), "merge 0 'a b'");
  test::write_bytes(path, R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})");
  refuse(path.string(), "to end documents");
  test::write_bytes(path, R"({"vocab": {"a": 0}})");
  refuse(path.string(), "has no model");
  test::write_bytes(path, R"({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})");
  refuse(path.string(), "piece 'a' has id -1");
  test::write_bytes(path, "{");
  EXPECT_THROW(load_tokenizer(path.string()), InputFileError);
}

TEST_F(TokenizerFileTest, ConfigurationBesideItNamesTheEnd) {
  EXPECT_EQ(load_tokenizer(file(""))->end_of_document(), 1);
  test::write_bytes(directory_.path() / "tokenizer_config.json",
                    R"({"eos_token": {"content": "b"}})");
  EXPECT_EQ(load_tokenizer(file(""))->end_of_document(), 2);
  test::write_bytes(directory_.path() / "tokenizer_config.json", R"({"eos_token": "z"})");
  refuse(file(""), "no token 'z'");
}

}  // namespace
}  // namespace polymoe
