// SPDX-License-Identifier: Apache-2.0
#include "launch/data/run_tokenizer.h"

#include <gtest/gtest.h>

#include "launch/data/tokenizer_identity.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

class RunTokenizerTest : public testing::Test {
 protected:
  RunTokenizerTest() {
    for (const char* name : {"data", "run/checkpoints/step-00000001"})
      std::filesystem::create_directories(path(name));
    test::write_bytes(path("run/checkpoints/step-00000001/manifest.json"), "{}");
  }
  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }
  /// What a run on these files remembers.
  std::string remembered(const std::string& file) {
    remember_tokenizer({{.path = path("other").string(), .weight = 1.0},
                        {.path = path(file).string(), .weight = 1.0}},
                       path("run"));
    return tokenizer_name("", path("run"));
  }

  test::TemporaryDirectory directory_;
};

TEST_F(RunTokenizerTest, ModelTravelsFromTheTextToTheRun) {
  test::write_bytes(path("my.model"), "pieces");
  leave_tokenizer(path("my.model").string(), path("data/tokens"));
  for (const char* file : {"data/tokens", "data/tokens.bin", "data/tokens.idx", "data/tokens-train",
                           "data/tokens-train.bin", "data/tokens-valid"}) {
    std::filesystem::remove(path("run/tokenizer.model"));
    EXPECT_EQ(remembered(file), path("run/tokenizer.model").string()) << file;
    EXPECT_EQ(test::read_bytes(path("run/tokenizer.model")), "pieces");
  }
  EXPECT_EQ(tokenizer_name("", path("run/checkpoints/step-00000001")),
            path("run/tokenizer.model").string());
  // Where the model was trained in place it stays.
  leave_tokenizer(path("data/tokens.model").string(), path("data/tokens"));
  EXPECT_EQ(test::read_bytes(path("data/tokens.model")), "pieces");
}

TEST_F(RunTokenizerTest, BytesAreRememberedByName) {
  test::write_bytes(path("data/tokens.model"), "of an earlier vocabulary");
  leave_tokenizer("bytes", path("data/tokens"));
  EXPECT_EQ(remembered("data/tokens.bin"), "bytes");
  EXPECT_EQ(tokenizer_name("", path("run/checkpoints/step-00000001")), "bytes");
}

TEST_F(RunTokenizerTest, TokenizerJsonTravelsWithItsConfiguration) {
  const std::string vocabulary =
      R"({"model": {"type": "BPE", "vocab": {"a": 0, "</s>": 1, "b": 2}, "merges": []}})";
  std::filesystem::create_directories(path("hf"));
  test::write_bytes(path("hf/tokenizer.json"), vocabulary);
  test::write_bytes(path("hf/tokenizer_config.json"), R"({"eos_token": "b"})");
  test::write_bytes(path("data/tokens.model"), "of an earlier vocabulary");
  leave_tokenizer(path("hf/tokenizer.json").string(), path("data/tokens"));
  EXPECT_EQ(remembered("data/tokens-train.bin"), path("run/tokenizer.json").string());
  EXPECT_EQ(test::read_bytes(path("run/tokenizer.json")), vocabulary);
  EXPECT_EQ(load_run_tokenizer("", path("run"), 3)->end_of_document(), 2);
  const std::string message =
      test::message_of<InputFileError>([&] { load_run_tokenizer("", path("run"), 2); });
  EXPECT_NE(message.find("has 3 tokens; the model has model.vocab = 2"), std::string::npos)
      << message;
  // Another tokenizer leaves nothing of this one.
  leave_tokenizer("bytes", path("data/tokens"));
  EXPECT_FALSE(std::filesystem::exists(path("data/tokens.tokenizer.json")));
  std::filesystem::remove(path("run/tokenizer.json"));
  EXPECT_EQ(remembered("data/tokens"), "bytes");
}

TEST_F(RunTokenizerTest, TheOneGivenWins) {
  leave_tokenizer("bytes", path("data/tokens"));
  EXPECT_EQ(remembered("data/tokens"), "bytes");
  EXPECT_EQ(tokenizer_name("other.model", path("run")), "other.model");
}

TEST_F(RunTokenizerTest, ARunKeepsTheTokenizerOfItsCheckpoints) {
  test::write_bytes(path("my.model"), "pieces");
  test::write_bytes(path("second.model"), "other pieces");
  leave_tokenizer(path("my.model").string(), path("data/tokens"));
  leave_tokenizer(path("second.model").string(), path("data/others"));
  remembered("data/tokens");
  const std::string message =
      test::message_of<InputFileError>([&] { remembered("data/others.bin"); });
  EXPECT_NE(message.find("others.model"), std::string::npos) << message;
  EXPECT_NE(message.find("tokenizer.model"), std::string::npos) << message;
  EXPECT_EQ(test::read_bytes(path("run/tokenizer.model")), "pieces");
}

TEST_F(RunTokenizerTest, TheIdentityOfATokenizerLiesBesideItsTokens) {
  EXPECT_FALSE(tokenizer_of_tokens(path("data/tokens.bin")).has_value());
  leave_tokenizer("bytes", path("data/tokens"));
  EXPECT_EQ(tokenizer_of_tokens(path("data/tokens.bin"))->name, "bytes");
  test::write_bytes(path("my.model"), "pieces");
  const TokenizerIdentity mine = identity_of_tokenizer(path("my.model").string());
  describe_tokens({.tokenizer = mine, .end_of_document = 3, .documents = 1, .tokens = 9},
                  path("data/tokens"));
  for (const char* file : {"data/tokens", "data/tokens.bin", "data/tokens.idx"}) {
    EXPECT_TRUE(tokenizer_of_tokens(path(file))->same_as(mine)) << file;
    EXPECT_EQ(end_of_document_of_tokens(path(file)), 3) << file;
  }
  EXPECT_FALSE(mine.same_as(identity_of_tokenizer("bytes")));
  test::write_bytes(path("data/tokens.tokens.json"), "{}");
  EXPECT_THROW(tokenizer_of_tokens(path("data/tokens.bin")), InputFileError);
}

TEST_F(RunTokenizerTest, SaysWhenThereIsNone) {
  const std::string message =
      test::message_of<InvalidArgument>([&] { remembered("data/tokens.bin"); });
  EXPECT_NE(message.find("--tokenizer"), std::string::npos) << message;
  test::write_bytes(path("data/tokens.tokenizer"), "words\n");
  EXPECT_THROW(remembered("data/tokens.bin"), InputFileError);
}

}  // namespace
}  // namespace polymoe
