// SPDX-License-Identifier: Apache-2.0
#include "launch/data/document_stream.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "launch/data/sampled_texts.h"
#include "launch/data/text_inputs.h"
#include "runtime/error.h"
#include "runtime/files/json.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;
using test::write_bytes;

class DocumentStreamTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }
  std::string file(const std::string& name, const std::string& bytes) const {
    write_bytes(path(name), bytes);
    return path(name);
  }
  /// Every document, with "|" between its parts.
  static std::vector<std::string> documents(const std::vector<std::string>& files,
                                            const DocumentStream::Settings& settings) {
    DocumentStream stream(files, settings);
    std::vector<std::string> all;
    bool begun = false;
    for (DocumentPart part; stream.next(part);) {
      EXPECT_EQ(part.document, static_cast<std::int64_t>(all.size()) - (begun ? 1 : 0));
      if (begun)
        all.back() += "|" + part.text;
      else
        all.push_back(part.text);
      begun = !part.last;
    }
    EXPECT_FALSE(begun);
    return all;
  }
  using Texts = std::vector<std::string>;
  test::TemporaryDirectory directory_;
};

TEST_F(DocumentStreamTest, DocumentsAreFilesOrWhatSeparatorLinesSeparate) {
  const std::string a = file("a", "one\n---\ntwo\r\n---\r\n\n--- not\n---\n---\nlast"),
                    b = file("b", "---\nthree\n---"), empty = file("empty", ""),
                    marked = file("marked", "\xEF\xBB\xBFtext");
  EXPECT_EQ(
      documents({a, empty, b, marked}, {}),
      (Texts{"one\n---\ntwo\r\n---\r\n\n--- not\n---\n---\nlast", "---\nthree\n---", "text"}));
  EXPECT_EQ(documents({a, empty, b}, {.separator = "---"}),
            (Texts{"one\n", "two\r\n", "\n--- not\n", "last", "three\n"}));
}

TEST_F(DocumentStreamTest, LongDocumentsComeInPartsThatATokenizerTakesForTheWhole) {
  const std::string words = file("words", "some words and a line\nand more words");
  EXPECT_EQ(documents({words}, {.part_bytes = 16}),
            (Texts{"some words and a| line\nand more| words"}));
  const std::string lines = file("lines", "aaaaaaaaa\nbbbbbbbbb\nccccccccc\n");
  EXPECT_EQ(documents({lines}, {.part_bytes = 16}), (Texts{"aaaaaaaaa\n|bbbbbbbbb\n|ccccccccc\n"}));
  // Nothing to cut at: between characters.
  const std::string dense = file("dense", "\xE4\xB8\xAD\xE4\xB8\xAD\xE4\xB8\xAD\xE4\xB8\xAD");
  EXPECT_EQ(documents({dense}, {.part_bytes = 7}),
            (Texts{"\xE4\xB8\xAD\xE4\xB8\xAD|\xE4\xB8\xAD\xE4\xB8\xAD"}));
}

TEST_F(DocumentStreamTest, LinesOfJsonAreDocuments) {
  const std::string named = file("a.jsonl", "{\"text\": 1}\n\n  {}\n"), plain = file("b", "x\ny");
  EXPECT_EQ(documents({named, plain}, {}), (Texts{"{\"text\": 1}\n", "{}\n", "x\ny"}));
  EXPECT_EQ(documents({plain}, {.json = true}), (Texts{"x\n", "y"}));
  DocumentStream stream({named}, {});
  DocumentPart part;
  ASSERT_TRUE(stream.next(part));
  ASSERT_TRUE(stream.next(part));
  EXPECT_EQ(part.origin, named + " line 3");
  EXPECT_TRUE(part.json);
}

TEST_F(DocumentStreamTest, ForeignFilesAreNamedForWhatTheyAre) {
  const auto refusal = [&](const std::string& bytes) {
    return message_of<InputFileError>([&] { documents({file("f", bytes)}, {}); });
  };
  EXPECT_NE(refusal("\xFF\xFEt").find("UTF-16"), std::string::npos);
  EXPECT_NE(refusal("PAR1xxxx").find("Parquet"), std::string::npos);
  EXPECT_THROW(documents({path("absent")}, {}), InputFileError);
}

const std::string parquet = POLYMOE_FIXTURES "/texts.parquet";

TEST_F(DocumentStreamTest, RowsOfParquetAreDocuments) {
  if (!reads_parquet()) GTEST_SKIP() << "built without Arrow's C++ library";
  const Texts texts = {"first", "zwei\nZeilen, naïve", "你好 😀",
                       "first", std::string(300, 'x'), "last"};  // the empty one is left out
  EXPECT_EQ(documents({parquet}, {}), texts);
  // By its first bytes, whatever its name, among others and beside --field.
  const std::string renamed = path("renamed.txt");
  std::filesystem::copy_file(parquet, renamed);
  Texts all = {"front"};
  all.insert(all.end(), texts.begin(), texts.end());
  EXPECT_EQ(documents({file("front", "front"), renamed}, {}), all);
  EXPECT_EQ(documents({parquet}, {.json = true, .column = "inside.text"})[0], "first!");

  DocumentStream stream({parquet, parquet}, {});
  DocumentPart part;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stream.next(part));
  EXPECT_EQ(part.origin, parquet + " row 4");
  EXPECT_TRUE(part.first && part.last);
  const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(parquet));
  EXPECT_EQ(stream.consumed(), bytes * 4 / 7);
  while (stream.next(part)) {
  }
  EXPECT_EQ(stream.consumed(), 2 * bytes);
}

TEST_F(DocumentStreamTest, ParquetWithoutTheTextsIsRefused) {
  if (!reads_parquet()) GTEST_SKIP() << "built without Arrow's C++ library";
  const auto refusal = [&](const std::string& input, const std::string& column) {
    return message_of<InputFileError>([&] { documents({input}, {.column = column}); });
  };
  for (const char* column : {"none", "number", "tags", "tags.list.element"})
    EXPECT_EQ(refusal(parquet, column),
              parquet + ": has no column \"" + column +
                  "\" of texts (--field); columns of texts: text, note, inside.text");
  EXPECT_EQ(refusal(parquet, "note"), parquet + ": row 5 has no text in the column \"note\"");
  const std::string whole = test::read_bytes(parquet);
  for (const std::size_t size : {std::size_t{4}, std::size_t{100}, whole.size() - 10})
    EXPECT_NE(
        refusal(file("torn", whole.substr(0, size)), "text").find("cannot be read as Parquet"),
        std::string::npos)
        << size;
}

const std::string conversations = POLYMOE_FIXTURES "/conversations";

TEST_F(DocumentStreamTest, ConversationsOfParquetAreThoseOfLinesOfJson) {
  if (!reads_parquet()) GTEST_SKIP() << "built without Arrow's C++ library";
  const auto values = [&](const std::string& name) {
    Texts all;
    DocumentStream stream({name}, {.json = true, .conversations = true});
    for (DocumentPart part; stream.next(part);) {
      EXPECT_TRUE(part.json && part.first && part.last);
      all.push_back(parse_json(part.text, part.origin).dump());
    }
    return all;
  };
  const Texts of_lines = values(conversations + ".jsonl");
  ASSERT_EQ(of_lines.size(), 9U);
  EXPECT_EQ(values(conversations + ".parquet"), of_lines);
}

TEST_F(DocumentStreamTest, ParquetWithoutConversationsIsRefused) {
  if (!reads_parquet()) GTEST_SKIP() << "built without Arrow's C++ library";
  const auto refusal = [&](const std::string& input) {
    return message_of<InputFileError>([&] { documents({input}, {.conversations = true}); });
  };
  EXPECT_EQ(refusal(parquet),
            parquet +
                ": --chat: has no column \"messages\" of lists of {role, content}, both "
                "texts, nor \"prompt\" and \"completion\"; columns of texts: text, note, "
                "inside.text");
  EXPECT_EQ(refusal(conversations + "-null.parquet"),
            conversations +
                "-null.parquet: row 2, column \"messages\": the content of message 2 is "
                "null");
  EXPECT_EQ(refusal(POLYMOE_FIXTURES "/prompts.parquet"),
            POLYMOE_FIXTURES "/prompts.parquet: row 2, column \"prompt\": is null");
  std::string torn = test::read_bytes(conversations + ".parquet");
  torn.replace(torn.size() / 2, 400, 400, '\xFF');
  EXPECT_NE(refusal(file("torn", torn)).find("cannot be read as Parquet"), std::string::npos);
}

TEST_F(DocumentStreamTest, ABuildWithoutArrowSaysSo) {
  if (reads_parquet()) GTEST_SKIP() << "built with Arrow's C++ library";
  EXPECT_NE(message_of<InputFileError>([&] { documents({parquet}, {}); }).find("without Arrow"),
            std::string::npos);
  // By name before anything else is read.
  EXPECT_NE(message_of<InputFileError>([&] {
              text_inputs({file("a", "a"), parquet});
            }).find("without Arrow"),
            std::string::npos);
}

TEST_F(DocumentStreamTest, InputsAreFilesDirectoriesAndPatterns) {
  std::filesystem::create_directories(path("d/deeper"));
  file("d/b.txt", "b");
  file("d/a.txt", "a");
  file("d/.hidden", "h");
  file("d/deeper/c.jsonl.gz", "c");
  EXPECT_EQ(text_inputs({path("d")}),
            (Texts{path("d/a.txt"), path("d/b.txt"), path("d/deeper/c.jsonl.gz")}));
  EXPECT_EQ(text_inputs({path("d/*.txt"), "-"}), (Texts{path("d/a.txt"), path("d/b.txt"), "-"}));
  EXPECT_EQ(input_bytes({path("d/a.txt"), path("d/b.txt")}), 2);
  EXPECT_TRUE(names_json_lines("x.jsonl.gz"));
  EXPECT_FALSE(names_json_lines("x.txt.gz"));
  std::filesystem::create_directories(path("bare"));
  for (const std::string& wrong : {path("none"), path("d/*.md"), path("bare")})
    EXPECT_THROW(text_inputs({wrong}), InputFileError) << wrong;
  EXPECT_THROW(text_inputs({"-", "-"}), InputFileError);
}

TEST(SampledTexts, KeepsEverythingInOrderOrASampleBelowTheLimit) {
  SampledTexts all(100, 1), some(100, 1), again(100, 1), other(100, 2);
  for (int i = 0; i < 10; ++i) all.add(std::string(10, static_cast<char>('a' + i)));
  EXPECT_EQ(all.take().size(), 10U);
  EXPECT_EQ(all.take()[3], "dddddddddd");
  for (int i = 0; i < 1000; ++i)
    for (SampledTexts* sample : {&some, &again, &other})
      sample->add(std::to_string(100'000'000 + i));
  EXPECT_LE(some.bytes(), 100);
  EXPECT_GE(some.bytes(), 27);
  EXPECT_EQ(some.take(), again.take());
  EXPECT_NE(some.take(), other.take());
}

}  // namespace
}  // namespace polymoe
