// SPDX-License-Identifier: Apache-2.0
#include "launch/data/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>

#include "launch/data/held_out.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;
using test::TemporaryDirectory;
using test::write_bytes;

const std::string replacement = "\xEF\xBF\xBD";

std::vector<std::int32_t> encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::int32_t> ids;
  tokenizer.encode(text, ids);
  return ids;
}

std::string decode(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  TextStream stream(tokenizer);
  std::string text;
  for (const std::int32_t id : ids) text += stream.add(id);
  return text + stream.finish();
}

// Text with line breaks, indentation, digits and characters of 2 to 4 bytes.
std::string sample_text() {
  std::string text;
  for (int i = 0; i < 300; ++i) {
    text += "The function number " + std::to_string(i * 37 % 101) + " returns a value.\n";
    text += "    my $x = shift;  # caf\xC3\xA9, \xE2\x82\xAC 5, \xF0\x9F\x90\xAA\n\n";
    text += "=head2 Section of the manual page\n\n";
  }
  return text;
}

void train(std::int64_t vocab, const std::string& path, const std::string& text) {
  bool given = false;
  train_sentencepiece(vocab, path, [&]() -> std::string_view {
    return std::exchange(given, true) ? std::string_view() : std::string_view(text);
  });
}

TEST(ByteTokenizer, MapsBytesToThemselves) {
  const auto tokenizer = load_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab(), 257);
  EXPECT_EQ(tokenizer->end_of_document(), 256);
  const std::string text("a\0\xFF\n", 4);
  EXPECT_EQ(encode(*tokenizer, text), (std::vector<std::int32_t>{97, 0, 255, 10}));
  EXPECT_EQ(tokenizer->bytes_of(255), "\xFF");
  EXPECT_EQ(tokenizer->bytes_of(256), "");
  EXPECT_THROW(tokenizer->bytes_of(257), InvalidArgument);
  EXPECT_THROW(tokenizer->bytes_of(-1), InvalidArgument);
  EXPECT_EQ(decode(*tokenizer, encode(*tokenizer, sample_text())), sample_text());
}

TEST(TextStreamTest, EmitsWholeCharactersOnly) {
  const auto tokenizer = load_tokenizer("bytes");
  TextStream stream(*tokenizer);
  EXPECT_EQ(stream.add('a'), "a");
  EXPECT_EQ(stream.add(0xF0), "");
  EXPECT_EQ(stream.add(0x9F), "");
  EXPECT_EQ(stream.add(0x90), "");
  EXPECT_EQ(stream.add(0xAA), "\xF0\x9F\x90\xAA");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.add(0xC3), "");
  EXPECT_EQ(stream.finish(), replacement);
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStreamTest, ReplacesWhatIsNoUtf8) {
  const auto tokenizer = load_tokenizer("bytes");
  const auto shown = [&](std::string_view bytes) {
    return decode(*tokenizer, encode(*tokenizer, bytes));
  };
  EXPECT_EQ(shown("a\x80"
                  "b"),
            "a" + replacement + "b");  // stray continuation
  EXPECT_EQ(shown("\xC3"
                  "b"),
            replacement + "b");  // cut short
  EXPECT_EQ(shown("\xE2\x82"
                  "b"),
            replacement + "b");                                               // cut later
  EXPECT_EQ(shown("\xC0\xAF"), replacement + replacement);                    // overlong
  EXPECT_EQ(shown("\xED\xA0\x80"), replacement + replacement + replacement);  // surrogate
  EXPECT_EQ(shown("\xF4\x90\x80\x80").substr(0, 3), replacement);             // beyond U+10FFFF
  EXPECT_EQ(shown("\xF0\x9F\xF0\x9F\x90\xAA"), replacement + "\xF0\x9F\x90\xAA");
}

TEST(SentencePiece, GivesBackEveryTextByteForByte) {
  const TemporaryDirectory directory;
  const std::string path = (directory.path() / "m.model").string();
  train(400, path, sample_text());
  const auto tokenizer = load_tokenizer(path);
  EXPECT_EQ(tokenizer->vocab(), 400);
  EXPECT_EQ(tokenizer->bytes_of(tokenizer->end_of_document()), "");
  const std::string text = sample_text();
  const auto ids = encode(*tokenizer, text);
  EXPECT_LT(ids.size(), text.size() / 2);
  EXPECT_EQ(decode(*tokenizer, ids), text);
  // What the training text does not hold goes by bytes.
  for (const std::string other : {"  two  blanks ", "\n\n\t", "\xE4\xB8\xAD\xE6\x96\x87", "", " ",
                                  "\xE2\x82", "no such w\xC3\xB6rd"}) {
    const std::string back = decode(*tokenizer, encode(*tokenizer, other));
    if (other == "\xE2\x82")
      EXPECT_EQ(back.substr(0, 3), replacement);
    else
      EXPECT_EQ(back, other);
  }
  for (const std::int32_t id : ids) {
    ASSERT_GE(id, 0);
    ASSERT_LT(id, 400);
    ASSERT_NE(id, tokenizer->end_of_document());
  }
  EXPECT_THROW(tokenizer->bytes_of(400), InvalidArgument);
}

TEST(SentencePiece, LongTextsGoInParts) {
  const TemporaryDirectory directory;
  const std::string path = (directory.path() / "m.model").string();
  train(400, path, sample_text());
  const auto tokenizer = load_tokenizer(path);
  std::string text;
  while (text.size() < (std::size_t{5} << 19)) text += sample_text();
  EXPECT_EQ(decode(*tokenizer, encode(*tokenizer, text)), text);
}

TEST(SentencePiece, TheSameTextGivesTheSameModel) {
  const TemporaryDirectory directory;
  const std::string a = (directory.path() / "a").string(), b = (directory.path() / "b").string();
  train(380, a, sample_text());
  train(380, b, sample_text());
  EXPECT_EQ(test::read_bytes(a), test::read_bytes(b));
}

TEST(SentencePiece, RefusesForeignFilesAndImpossibleVocabularies) {
  const TemporaryDirectory directory;
  const std::string path = (directory.path() / "m.model").string();
  EXPECT_THROW(load_tokenizer(path), InputFileError);
  write_bytes(path, "this is no model");
  EXPECT_NE(message_of<InputFileError>([&] { load_tokenizer(path); }).find("sentencepiece"),
            std::string::npos);
  write_bytes(path, "");
  EXPECT_THROW(load_tokenizer(path), InputFileError);
  const std::string too_small =
      message_of<InvalidArgument>([&] { train(200, path, sample_text()); });
  EXPECT_NE(too_small.find("--train-vocabulary 200"), std::string::npos) << too_small;
  const std::string too_large =
      message_of<InvalidArgument>([&] { train(50000, path, sample_text()); });
  EXPECT_NE(too_large.find("--train-vocabulary 50000"), std::string::npos) << too_large;
  EXPECT_EQ(too_large.find('\n'), std::string::npos) << too_large;
}

TEST(HeldOut, DocumentsAreChosenBySeed) {
  const auto count = [](const std::vector<bool>& chosen) {
    return std::count(chosen.begin(), chosen.end(), true);
  };
  EXPECT_EQ(count(choose_held_out(200, 0.05, 0)), 10);
  EXPECT_EQ(count(choose_held_out(2, 0.001, 0)), 1);
  EXPECT_EQ(count(choose_held_out(2, 0.999, 0)), 1);
  EXPECT_EQ(choose_held_out(200, 0.05, 3), choose_held_out(200, 0.05, 3));
  EXPECT_NE(choose_held_out(200, 0.05, 3), choose_held_out(200, 0.05, 4));
  EXPECT_THROW(choose_held_out(1, 0.5, 0), InvalidArgument);
}

}  // namespace
}  // namespace polymoe
