// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/token_file.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/files/megatron_writer.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;
using test::read_bytes;
using test::TemporaryDirectory;
using test::write_bytes;

const std::filesystem::path fixtures = std::filesystem::path(POLYMOE_FIXTURES) / "token_files";
// As in tests/reference/token_files.py.
constexpr std::array<std::int64_t, 5> document_lengths = {7, 0, 12, 1, 30};
constexpr std::int64_t count = 50;
std::int32_t token(std::int64_t i, std::int64_t modulus) {
  return static_cast<std::int32_t>((i * i * 37 + i * 11 + 5) % modulus);
}

struct Case {
  const char* file;
  int token_bytes;
  TokenFile::Form form;
  const char* form_name;
  std::int64_t modulus;
};

class TokenFileForms : public testing::TestWithParam<Case> {};

TEST_P(TokenFileForms, ReadsWhatAnIndependentProgramWrote) {
  const Case& c = GetParam();
  const TokenFile file = TokenFile::open(fixtures / c.file, c.token_bytes);
  EXPECT_EQ(file.form(), c.form);
  EXPECT_EQ(file.form_name(), c.form_name);
  ASSERT_EQ(file.tokens(), count);
  for (const std::int64_t begin : {0, 1, 7, 49, 50}) {
    std::vector<std::int32_t> out(static_cast<std::size_t>(count - begin) + 1, -7);
    file.read(begin, count - begin, out.data());
    for (std::int64_t i = begin; i < count; ++i) {
      EXPECT_EQ(out[static_cast<std::size_t>(i - begin)], token(i, c.modulus)) << i;
    }
    EXPECT_EQ(out.back(), -7);
  }
  std::int32_t largest = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, token(i, c.modulus));
  EXPECT_EQ(file.max_token(), static_cast<std::uint64_t>(largest));
  EXPECT_NO_THROW(file.check_vocabulary(largest + 1));
  EXPECT_THROW(file.check_vocabulary(largest), InputFileError);
  std::int32_t unused = 0;
  EXPECT_THROW(file.read(50, 1, &unused), InvalidArgument);
  EXPECT_THROW(file.read(-1, 1, &unused), InvalidArgument);
}

TEST_P(TokenFileForms, KnowsTheDocumentsWhereTheFormDoes) {
  const Case& c = GetParam();
  const TokenFile file = TokenFile::open(fixtures / c.file, c.token_bytes);
  if (c.form != TokenFile::Form::megatron) {
    EXPECT_EQ(file.documents(), 0);
    return;
  }
  ASSERT_EQ(file.documents(), 5);
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < document_lengths.size(); ++i) {
    const TokenFile::Range range = file.document(static_cast<std::int64_t>(i));
    EXPECT_EQ(range.begin, begin);
    EXPECT_EQ(range.size(), document_lengths[i]);
    begin = range.end;
  }
  EXPECT_THROW(file.document(5), InvalidArgument);
}

constexpr auto megatron = TokenFile::Form::megatron;
INSTANTIATE_TEST_SUITE_P(
    Files, TokenFileForms,
    testing::Values(Case{"megatron_u16", 2, megatron, "Megatron u16", 50000},
                    Case{"megatron_u16.bin", 4, megatron, "Megatron u16", 50000},
                    Case{"megatron_u16.idx", 2, megatron, "Megatron u16", 50000},
                    Case{"megatron_i32.bin", 2, megatron, "Megatron i32", 100000},
                    Case{"megatron_i64.bin", 2, megatron, "Megatron i64", 100000},
                    Case{"megatron_u8.bin", 2, megatron, "Megatron u8", 256},
                    Case{"llmc_u16.bin", 2, TokenFile::Form::llm_c, "llm.c u16", 50000},
                    Case{"llmc_u32.bin", 2, TokenFile::Form::llm_c, "llm.c u32", 100000},
                    Case{"raw_u16.npy", 2, TokenFile::Form::raw, "raw u16", 50000},
                    Case{"raw_u32.npy", 4, TokenFile::Form::raw, "raw u32", 100000}));

class DamagedTokenFile : public testing::Test {
 protected:
  /// The message of the InputFileError for a file with these bytes.
  std::string error_of(const char* name, std::string_view bytes, int token_bytes = 2) {
    write_bytes(directory_.path() / name, bytes);
    return message_of<InputFileError>(
        [&] { TokenFile::open(directory_.path() / name, token_bytes); });
  }
  TemporaryDirectory directory_;
};

TEST_F(DamagedTokenFile, EveryTruncationIsFound) {
  for (const char* name : {"megatron_u16.idx", "llmc_u16.bin", "llmc_u32.bin"}) {
    if (std::strstr(name, "idx") != nullptr) {
      write_bytes(directory_.path() / "megatron_u16.bin",
                  read_bytes(fixtures / "megatron_u16.bin"));
    }
    const std::string whole = read_bytes(fixtures / name);
    for (std::size_t size = 0; size < whole.size(); size += 1 + size / 20) {
      EXPECT_NE(error_of(name, whole.substr(0, size)), "") << name << " cut to " << size;
    }
    EXPECT_NE(error_of(name, whole.substr(0, whole.size() - 1)), "") << name << " without its end";
    EXPECT_NE(error_of(name, whole + "x"), "") << name << " with a byte more";
  }
  const std::string tokens = read_bytes(fixtures / "megatron_i32.bin");
  write_bytes(directory_.path() / "megatron_i32.idx", read_bytes(fixtures / "megatron_i32.idx"));
  for (std::size_t size = 0; size < tokens.size(); ++size) {
    EXPECT_NE(error_of("megatron_i32.bin", tokens.substr(0, size)), "") << size;
  }
}

TEST_F(DamagedTokenFile, NoFlippedBitOfAnIndexReadsBeyondTheTokens) {
  write_bytes(directory_.path() / "megatron_u16.bin", read_bytes(fixtures / "megatron_u16.bin"));
  const std::string whole = read_bytes(fixtures / "megatron_u16.idx");
  int refused = 0, read = 0;
  // Every bit of the header, then every third.
  for (std::size_t bit = 0; bit < whole.size() * 8; bit += bit < 34 * 8 ? 1 : 3) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    write_bytes(directory_.path() / "megatron_u16.idx", damaged);
    try {
      const TokenFile file = TokenFile::open(directory_.path() / "megatron_u16", 2);
      std::int64_t last = 0;
      for (std::int64_t i = 0; i < file.documents(); ++i) {
        const TokenFile::Range range = file.document(i);
        EXPECT_EQ(range.begin, last);
        EXPECT_LE(range.end, file.tokens());
        last = range.end;
      }
      std::vector<std::int32_t> out(static_cast<std::size_t>(file.tokens()));
      file.read(0, file.tokens(), out.data());
      ++read;
    } catch (const InputFileError&) {
      ++refused;
    }
  }
  // Only a boundary moved between others, or a dtype of the same width, can still be a valid index.
  EXPECT_GT(refused, 50 * read);
}

TEST_F(DamagedTokenFile, ForeignFilesAreNamedForWhatTheyAre) {
  const auto contains = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(contains(error_of("a.npy", std::string("\x93NUMPY\x01\x00", 8)), "NumPy file"));
  EXPECT_TRUE(contains(error_of("b.npy", "abc"), "truncated"));
  EXPECT_TRUE(contains(error_of("c.npy", "abcdef", 4), "truncated"));
  EXPECT_TRUE(contains(error_of("d.npy", ""), "no tokens"));
  EXPECT_TRUE(contains(error_of("e.bin", "some text"), "llm.c's magic"));
  EXPECT_TRUE(contains(error_of("f.txt", "some text"), "not a token file"));
  EXPECT_TRUE(contains(error_of("g.idx", "some text"), "MMIDIDX"));
  write_bytes(directory_.path() / "h.idx", read_bytes(fixtures / "megatron_u16.idx"));
  EXPECT_TRUE(contains(
      message_of<InputFileError>([&] { TokenFile::open(directory_.path() / "h", 2); }), "h.bin"));
  EXPECT_TRUE(
      contains(message_of<InputFileError>([&] { TokenFile::open(directory_.path() / "none", 2); }),
               "no such file"));
  EXPECT_TRUE(contains(
      message_of<InputFileError>([&] { TokenFile::open(directory_.path() / "none.bin", 2); }),
      "none.bin"));
  EXPECT_TRUE(contains(message_of<InputFileError>([&] {
                         std::filesystem::create_directory(directory_.path() / "folder.bin");
                         TokenFile::open(directory_.path() / "folder.bin", 2);
                       }),
                       "regular file"));
  EXPECT_THROW(TokenFile::open(fixtures / "raw_u16.npy", 3), InvalidArgument);
}

TEST_F(DamagedTokenFile, IdsOutsideTheRangeAreNamedWithTheirPosition) {
  std::string bytes(400, '\0');
  const std::uint32_t large = 3'000'000'000;
  std::memcpy(bytes.data() + 4 * 70, &large, 4);
  write_bytes(directory_.path() / "large.npy", bytes);
  const TokenFile file = TokenFile::open(directory_.path() / "large.npy", 4);
  EXPECT_EQ(file.max_token(), large);
  std::vector<std::int32_t> out(100);
  EXPECT_NO_THROW(file.read(0, 70, out.data()));
  const std::string message = message_of<InputFileError>([&] { file.read(0, 100, out.data()); });
  EXPECT_NE(message.find("token 70 has id 3000000000"), std::string::npos) << message;

  // A negative id of a signed Megatron file is no large unsigned one within the vocabulary.
  write_bytes(directory_.path() / "negative.idx", read_bytes(fixtures / "megatron_i32.idx"));
  std::string tokens = read_bytes(fixtures / "megatron_i32.bin");
  const std::int32_t negative = -3;
  std::memcpy(tokens.data() + 4 * 20, &negative, 4);
  write_bytes(directory_.path() / "negative.bin", tokens);
  const TokenFile signed_file = TokenFile::open(directory_.path() / "negative.bin", 2);
  const std::string second =
      message_of<InputFileError>([&] { signed_file.check_vocabulary(1 << 30); });
  EXPECT_NE(second.find("token 20 has id -3"), std::string::npos) << second;
}

TEST_F(DamagedTokenFile, ThatBecomesShorterIsAnErrorThatNamesIt) {
  const auto path = directory_.path() / "shrinking.npy";
  write_bytes(path, std::string(200'000, '\1'));
  const TokenFile file = TokenFile::open(path, 2);
  std::filesystem::resize_file(path, 1000);
  std::vector<std::int32_t> out(600);
  EXPECT_NO_THROW(file.read(0, 500, out.data()));
  const std::string message =
      message_of<InputFileError>([&] { file.read(90'000, 600, out.data()); });
  EXPECT_NE(message.find("shrinking.npy"), std::string::npos) << message;
  EXPECT_NE(message.find("became shorter"), std::string::npos) << message;
}

TEST_F(DamagedTokenFile, OpensInTheSameTimeWhateverTheIndexHoldsAndIsCheckedOnRequest) {
  write_bytes(directory_.path() / "megatron_u16.bin", read_bytes(fixtures / "megatron_u16.bin"));
  std::string index = read_bytes(fixtures / "megatron_u16.idx");
  index[34 + 4] = 9;  // the second of five lengths
  write_bytes(directory_.path() / "megatron_u16.idx", index);
  const TokenFile file = TokenFile::open(directory_.path() / "megatron_u16", 2);
  const std::string message = message_of<InputFileError>([&] { file.check_index(); });
  EXPECT_NE(message.find("sequence 2 has 12 tokens"), std::string::npos) << message;
  EXPECT_NO_THROW(TokenFile::open(fixtures / "megatron_i32", 2).check_index());
  EXPECT_NO_THROW(TokenFile::open(fixtures / "raw_u16.npy", 2).check_index());
}

TEST_F(DamagedTokenFile, AnIndexThatWasToldNoDocumentsHasNone) {
  write_bytes(directory_.path() / "m.bin", read_bytes(fixtures / "megatron_u16.bin"));
  std::string index = read_bytes(fixtures / "megatron_u16.idx");
  index.resize(index.size() - 5 * 8);  // [0] alone is left
  index[26] = 1;
  write_bytes(directory_.path() / "m.idx", index);
  const TokenFile file = TokenFile::open(directory_.path() / "m", 2);
  EXPECT_EQ(file.documents(), 0);
  EXPECT_EQ(file.tokens(), count);
  EXPECT_NO_THROW(file.check_index());
  EXPECT_TRUE(file.document_starts(0, count).empty());
}

TEST(TokenFile, NamesTheDocumentsThatBeginInARange) {
  for (const char* name : {"megatron_u16", "megatron_i32"}) {  // a sequence each, and two
    const TokenFile file = TokenFile::open(fixtures / name, 2);
    using Starts = std::vector<std::int64_t>;
    EXPECT_EQ(file.document_starts(0, count), (Starts{0, 7, 19, 20})) << name;
    EXPECT_EQ(file.document_starts(1, 19), (Starts{7})) << name;
    EXPECT_EQ(file.document_starts(7, 8), (Starts{7})) << name;
    EXPECT_EQ(file.document_starts(8, 19), Starts()) << name;
    EXPECT_EQ(file.document_starts(21, count), Starts()) << name;
  }
}

TEST(TokenFile, KnowsWideTokensThatAreReadAsNarrowOnes) {
  const TemporaryDirectory directory;
  const auto looks = [&](std::uint32_t modulus, std::int64_t tokens) {
    std::vector<std::uint32_t> ids(static_cast<std::size_t>(tokens));
    for (std::size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<std::uint32_t>(token(static_cast<std::int64_t>(i), modulus));
    write_bytes(directory.path() / "t.npy",
                {reinterpret_cast<const char*>(ids.data()), ids.size() * 4});
    return TokenFile::open(directory.path() / "t.npy", 2).looks_like_u32();
  };
  EXPECT_TRUE(looks(50000, 400));
  EXPECT_TRUE(looks(100278, 50'000));
  EXPECT_FALSE(looks(2, 400));  // nothing but 0 and 1: as good as any u16
  EXPECT_FALSE(TokenFile::open(fixtures / "raw_u16.npy", 2).looks_like_u32());
}

TEST(MegatronWriter, WritesTheBytesOfAnIndependentProgram) {
  TemporaryDirectory directory;
  MegatronWriter writer(directory.path() / "out", 50000);
  std::int64_t begin = 0;
  for (const std::int64_t length : document_lengths) {
    std::vector<std::int32_t> document;
    for (std::int64_t i = begin; i < begin + length; ++i) document.push_back(token(i, 50000));
    writer.add(document);
    begin += length;
  }
  EXPECT_FALSE(std::filesystem::exists(directory.path() / "out.bin"));
  writer.finish();
  EXPECT_EQ(writer.tokens(), count);
  EXPECT_EQ(writer.documents(), 5);
  EXPECT_EQ(read_bytes(directory.path() / "out.bin"), read_bytes(fixtures / "megatron_u16.bin"));
  EXPECT_EQ(read_bytes(directory.path() / "out.idx"), read_bytes(fixtures / "megatron_u16.idx"));
}

TEST(MegatronWriter, WidensForALargeVocabularyAndPassesItsBuffer) {
  TemporaryDirectory directory;
  constexpr std::int64_t vocab = 65500;
  std::vector<std::int32_t> large(400'000);
  for (std::size_t i = 0; i < large.size(); ++i) {
    large[i] = token(static_cast<std::int64_t>(i), vocab);
  }
  {
    MegatronWriter writer(directory.path() / "wide", vocab);
    writer.add(std::vector<std::int32_t>{vocab - 1});
    writer.add(large);
    writer.add(std::vector<std::int32_t>{3, 2, 1});
    EXPECT_THROW(writer.add(std::vector<std::int32_t>{1, vocab}), InvalidArgument);
    EXPECT_THROW(writer.add(std::vector<std::int32_t>{-1}), InvalidArgument);
    writer.finish();
  }
  const TokenFile file = TokenFile::open(directory.path() / "wide", 2);
  EXPECT_EQ(file.form_name(), "Megatron i32");
  ASSERT_EQ(file.tokens(), 400'004);
  EXPECT_EQ(file.document(2).begin, 400'001);
  std::vector<std::int32_t> out(400'004);
  file.read(0, file.tokens(), out.data());
  EXPECT_EQ(out.front(), vocab - 1);
  EXPECT_TRUE(std::equal(large.begin(), large.end(), out.begin() + 1));
  EXPECT_EQ(out.back(), 1);
}

TEST(MegatronWriter, WritesPartsOfDocumentsAndTheirMask) {
  TemporaryDirectory directory;
  const auto mask = directory.path() / "chat.mask.bin";
  {
    MegatronWriter writer(directory.path() / "chat", 100, true);
    writer.append(std::vector<std::int32_t>{1, 2}, std::vector<std::uint8_t>{0, 0});
    writer.append(std::vector<std::int32_t>{3}, std::vector<std::uint8_t>{1});
    writer.end_document();
    EXPECT_THROW(writer.append(std::vector<std::int32_t>{4}), InvalidArgument);
    writer.append(std::vector<std::int32_t>{5, 6}, std::vector<std::uint8_t>{0, 1});
    writer.end_document();
    writer.finish();
    EXPECT_EQ(writer.documents(), 2);
  }
  const TokenFile file = TokenFile::open(directory.path() / "chat", 2);
  EXPECT_TRUE(file.masked());
  EXPECT_EQ(file.document(0).size(), 3);
  std::vector<std::int32_t> ids(5), targets(5);
  file.read(0, 5, ids.data());
  file.read_targets(0, 5, targets.data(), 100);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{1, 2, 3, 5, 6}));
  EXPECT_EQ(targets, (std::vector<std::int32_t>{-1, -1, 3, -1, 6}));
  write_bytes(mask, std::string("\0\0\2\0\1", 5));
  EXPECT_THROW(
      TokenFile::open(directory.path() / "chat", 2).read_targets(0, 5, targets.data(), 100),
      InputFileError);
  write_bytes(mask, "1234");
  EXPECT_NE(message_of<InputFileError>([&] {
              TokenFile::open(directory.path() / "chat", 2);
            }).find("chat.mask.bin: has 4 bytes"),
            std::string::npos);
  // Tokens that are written anew do not inherit it.
  MegatronWriter plain(directory.path() / "chat", 100);
  plain.add(std::vector<std::int32_t>{1});
  plain.finish();
  EXPECT_FALSE(TokenFile::open(directory.path() / "chat", 2).masked());
}

TEST(MegatronWriter, LeavesNothingBehindWhenNotFinished) {
  TemporaryDirectory directory;
  {
    MegatronWriter writer(directory.path() / "out", 100);
    writer.add(std::vector<std::int32_t>{1, 2, 3});
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  EXPECT_THROW(MegatronWriter(directory.path() / "missing" / "out", 100), OutputFileError);
  EXPECT_THROW(MegatronWriter(directory.path() / "out", 0), InvalidArgument);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

}  // namespace
}  // namespace polymoe
