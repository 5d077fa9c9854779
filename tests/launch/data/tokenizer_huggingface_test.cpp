// SPDX-License-Identifier: Apache-2.0
#include "launch/data/tokenizer_huggingface.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <sstream>

#include "launch/data/part_encoder.h"
#include "launch/data/unicode_text.h"
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

/// The lines of tests/reference/tokenizer_lines.py, 10,000 of them, and hashes of what the
/// tokenizers package made of every 250.
class TokenizerLinesTest : public testing::TestWithParam<const char*> {
 protected:
  static constexpr std::size_t lines = 10000, block = 250;
  static constexpr std::uint64_t empty_hash = 14695981039346656037U;

  TokenizerLinesTest()
      : golden_(parse_json(read_file(fixtures + "lines.json", 1 << 24), "lines.json")) {
    for (const Json& part : golden_.at("parts").items()) parts_.push_back(part.as_string());
    for (const Json& range : golden_.at("ranges").items())
      ranges_.emplace_back(range.items()[0].as_integer(), range.items()[1].as_integer());
    state_ = static_cast<std::uint64_t>(golden_.at("seed").as_integer());
  }
  std::size_t draw(std::size_t count) {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return (state_ >> 33U) % count;
  }
  std::string next_line() {
    std::string line;
    for (std::size_t part = 1 + draw(8); part > 0; --part) {
      if (draw(4) < 3) {
        line += parts_[draw(parts_.size())];
      } else {
        const auto [first, last] = ranges_[draw(ranges_.size())];
        for (std::size_t c = 1 + draw(4); c > 0; --c)
          append_code_point(
              line, static_cast<char32_t>(first) +
                        static_cast<char32_t>(draw(static_cast<std::size_t>(last - first + 1))));
      }
      if (draw(3) == 0) line += " ";
    }
    return line;
  }
  static void hash(std::uint64_t& state, std::uint64_t value) {
    state = (state ^ value) * 1099511628211U;
  }

  Json golden_;
  std::vector<std::string> parts_;
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges_;
  std::uint64_t state_ = 0;
};

TEST_P(TokenizerLinesTest, IdsAndTextAreThoseOfTheTokenizersPackage) {
  const auto tokenizer = load_tokenizer(fixtures + GetParam() + ".json");
  const Json& family = golden_.at("families").at(GetParam());
  for (std::size_t first = 0; first < lines; first += block) {
    std::uint64_t of_ids = empty_hash, of_text = empty_hash;
    for (std::size_t i = 0; i < block; ++i) {
      std::vector<std::int32_t> ids;
      tokenizer->encode(next_line(), ids);
      for (const std::int32_t id : ids) hash(of_ids, static_cast<std::uint64_t>(id));
      hash(of_ids, std::uint64_t{1} << 32U);
      for (const char c : tokenizer->decode(ids)) hash(of_text, static_cast<unsigned char>(c));
      hash(of_text, 256);
    }
    const auto golden = [&](const char* what) {
      return family.at(what).items()[first / block].as_string();
    };
    ASSERT_EQ(fmt::format("{:016x}", of_ids), golden("ids")) << "of the lines from " << first;
    ASSERT_EQ(fmt::format("{:016x}", of_text), golden("decoded")) << "of the lines from " << first;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerLinesTest,
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
  refuse(file(R"(, "post_processor": {"type": "Prefix"})"), "post_processor 'Prefix' is not");
}

TEST_F(TokenizerFileTest, OfAPieceThatAListHasTwiceTheLastIdCounts) {
  const std::filesystem::path path = directory_.path() / "twice.json";
  test::write_bytes(path, R"({"model": {"type": "Unigram", "unk_id": 0,
      "vocab": [["<unk>", 0], ["</s>", 0], ["a", -9], ["b", -2], ["a", -1]]}})");
  const auto tokenizer = load_tokenizer(path.string());
  std::vector<std::int32_t> ids;
  tokenizer->encode("aba", ids);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{4, 3, 4}));
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{2}), "a");
}

TEST_F(TokenizerFileTest, TellsWhatStandsAroundEveryText) {
  using Ids = std::vector<std::int32_t>;
  const auto frame = [&](const std::string& post_processor) {
    const auto tokenizer = load_tokenizer(file(R"(, "post_processor": )" + post_processor));
    EXPECT_EQ(tokenizer->encode_prompt(""),
              tokenizer->before_text().empty() ? Ids{1} : tokenizer->before_text());
    return std::pair(tokenizer->before_text(), tokenizer->after_text());
  };
  const std::string around = R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "y", "type_id": 0}}],
      "special_tokens": {"x": {"id": "x", "ids": [2, 0]}, "y": {"id": "y", "ids": [1]}}})";
  EXPECT_EQ(frame("null"), (std::pair<Ids, Ids>()));
  EXPECT_EQ(frame(R"({"type": "ByteLevel"})"), (std::pair<Ids, Ids>()));
  EXPECT_EQ(frame(around), (std::pair<Ids, Ids>({2, 0}, {1})));
  EXPECT_EQ(frame(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, )" + around + "]}"),
            (std::pair<Ids, Ids>({2, 0}, {1})));
  EXPECT_EQ(frame(R"({"type": "RobertaProcessing", "cls": ["b", 2], "sep": ["</s>", 1]})"),
            (std::pair<Ids, Ids>({2}, {1})));

  const auto tokenizer = load_tokenizer(file(R"(, "post_processor": )" + around));
  EXPECT_EQ(tokenizer->encode_prompt("ab"), (Ids{2, 0, 0, 2}));
  EXPECT_EQ(tokenizer->encode_prompt("baa"), (Ids{2, 0, 0}));  // says it itself
  // Around a document of several parts once; the end that it has anyway not twice.
  const PartEncoder encoder({});
  const auto ids = [&](bool first, bool last) {
    return encoder.encode({.text = "a", .origin = "t", .first = first, .last = last}, *tokenizer)
        .ids;
  };
  EXPECT_EQ(ids(true, false), (Ids{2, 0, 0}));
  EXPECT_EQ(ids(false, false), (Ids{0}));
  EXPECT_EQ(ids(false, true), (Ids{0, 1}));

  const std::string broken = R"(, "post_processor": {"type": "TemplateProcessing", "single": )";
  const std::string text = R"({"Sequence": {"id": "A"}})";
  refuse(
      file(broken + R"([{"SpecialToken": {"id": "z"}}, )" + text + R"(], "special_tokens": {}})"),
      "special_tokens lacks 'z'");
  refuse(file(broken + R"([], "special_tokens": {}})"), "no place for the text");
  refuse(file(broken + "[" + text + ", " + text + R"(], "special_tokens": {}})"), "once only");
  refuse(
      file(R"(, "post_processor": {"type": "BertProcessing", "cls": ["x", 7], "sep": ["y", 1]})"),
      "id 7 is beyond the tokenizer's 3");
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
