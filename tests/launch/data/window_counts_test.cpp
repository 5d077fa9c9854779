// SPDX-License-Identifier: Apache-2.0
#include "launch/data/window_counts.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "launch/data/document_packing.h"
#include "launch/data/file_identity.h"
#include "runtime/error.h"
#include "runtime/files/megatron_writer.h"
#include "runtime/files/token_file.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_bytes;
using test::write_bytes;

constexpr std::array<std::int64_t, 2> contexts = {16, 64};

class WindowCountsTest : public ::testing::Test {
 protected:
  /// More than two blocks of documents; the length of one in the middle of the first may be
  /// another.
  TokenFile tokens(const std::string& name, std::int64_t of_one = 9) {
    MegatronWriter writer(path(name), 1000, false);
    for (std::int64_t i = 0; i < 2 * packing_block_documents + 100; ++i) {
      const std::int64_t length = i == 1000 ? of_one : 1 + i * i % 23;
      writer.append(std::vector<std::int32_t>(static_cast<std::size_t>(length), 7), {});
      writer.end_document();
    }
    writer.finish();
    return TokenFile::open(path(name).string() + ".bin", 2);
  }
  fs::path path(const std::string& name) const { return directory_.path() / name; }

  test::TemporaryDirectory directory_;
};

TEST_F(WindowCountsTest, AreThoseOfThePackedWindows) {
  const TokenFile file = tokens("a");
  for (const WindowCounts& counts : count_windows(file, contexts)) {
    SCOPED_TRACE(counts.context);
    ASSERT_EQ(counts.windows.size(), 3U);
    const DocumentPacking packing(counts);
    EXPECT_EQ(packing.windows(),
              std::accumulate(counts.windows.begin(), counts.windows.end(), std::int64_t{0}));
    std::int64_t rows = 0;
    for (std::int64_t window = 0; window < packing.windows(); ++window) {
      std::int64_t of_window = 0;
      for (const DocumentPacking::Piece& piece : packing.window(file, window))
        of_window += piece.rows;
      ASSERT_LE(of_window, counts.context);
      rows += of_window;
    }
    EXPECT_EQ(rows, counts.rows);
  }
}

TEST_F(WindowCountsTest, AreReadBackAsTheyWereWritten) {
  const TokenFile file = tokens("a");
  const std::vector<WindowCounts> counts = count_windows(file, contexts);
  write_window_counts(path("kept"), file, counts);
  const WindowCountsFile kept(path("kept"), file);
  EXPECT_EQ(kept.contexts(), (std::vector<std::int64_t>{16, 64}));
  EXPECT_EQ(kept.read(file, 16), counts[0]);
  EXPECT_EQ(kept.read(file, 64), counts[1]);
  EXPECT_EQ(kept.read(file, 32), std::nullopt);
}

TEST_F(WindowCountsTest, EveryDamagedByteAndEveryLostEndIsNoticed) {
  const TokenFile file = tokens("a");
  write_window_counts(path("kept"), file, count_windows(file, contexts));
  const std::string bytes = read_bytes(path("kept"));
  const auto refused = [&](const std::string& content) {
    write_bytes(path("kept"), content);
    try {
      const WindowCountsFile kept(path("kept"), file);
      for (const std::int64_t context : contexts) kept.read(file, context);
      return false;
    } catch (const InputFileError&) {
      return true;
    }
  };
  EXPECT_FALSE(refused(bytes));
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string other = bytes;
    other[i] = static_cast<char>(other[i] ^ 4);
    EXPECT_TRUE(refused(other)) << "byte " << i;
    EXPECT_TRUE(refused(bytes.substr(0, i))) << "the first " << i << " bytes";
  }
}

TEST_F(WindowCountsTest, ThoseOfOtherTokensAreNotUsedButCountedAnewWithAWarning) {
  const TokenFile before = tokens("a");
  write_window_counts(window_counts_path(before.path()), before, count_windows(before, contexts));
  FoundWindowCounts found = find_window_counts(before, 16, {});
  EXPECT_EQ(found.from, window_counts_path(before.path()));
  EXPECT_EQ(found.warning, "");
  const TokenFile after = tokens("a", 30);
  found = find_window_counts(after, 16, {});
  EXPECT_TRUE(found.from.empty());
  EXPECT_NE(found.warning.find("was made of other tokens"), std::string::npos) << found.warning;
  EXPECT_NE(found.warning.find("counted anew"), std::string::npos) << found.warning;
  EXPECT_EQ(found.counts, count_windows(after, contexts)[0]);
}

TEST_F(WindowCountsTest, AreKeptWhereTheNextStartFindsThem) {
  const TokenFile file = tokens("a");
  const fs::path directory = path("run/windows");
  const FoundWindowCounts first = find_window_counts(file, 64, directory);
  EXPECT_TRUE(first.from.empty());
  const fs::path kept = keep_window_counts(file, first.counts, directory);
  const FoundWindowCounts second = find_window_counts(file, 64, directory);
  EXPECT_EQ(second.from, kept);
  EXPECT_EQ(second.counts, first.counts);
  // They serve where those beside the tokens do not, and nothing is said to be counted.
  write_bytes(window_counts_path(file.path()), "damaged");
  const FoundWindowCounts third = find_window_counts(file, 64, directory);
  EXPECT_EQ(third.from, kept);
  EXPECT_NE(third.warning.find("damaged"), std::string::npos) << third.warning;
  EXPECT_EQ(third.warning.find("counted anew"), std::string::npos) << third.warning;
  // Another context has counts of its own.
  EXPECT_TRUE(find_window_counts(file, 16, directory).from.empty());
}

TEST_F(WindowCountsTest, FilesThatShareASampleDoNotShareTheirCounts) {
  // A long document in one block or in the next: nothing of that is in what a start looks at.
  const auto file = [&](const std::string& name, std::int64_t place) {
    MegatronWriter writer(path(name), 1000, false);
    for (std::int64_t i = 0; i < 2 * packing_block_documents; ++i) {
      writer.append(std::vector<std::int32_t>(i == place ? 1000 : 3, 7), {});
      writer.end_document();
    }
    writer.finish();
    return TokenFile::open(path(name).string() + ".bin", 2);
  };
  const TokenFile a = file("a", 3000), b = file("b", 5000);
  ASSERT_EQ(FileIdentity::of(a, "").difference_to(FileIdentity::of(b, "")), "");
  const WindowCounts of_a = count_windows(a, contexts)[0], of_b = count_windows(b, contexts)[0];
  ASSERT_NE(of_a, of_b);
  const fs::path directory = path("run/windows");
  const fs::path kept = keep_window_counts(a, of_a, directory);
  EXPECT_NE(keep_window_counts(b, of_b, directory), kept);
  const FoundWindowCounts found = find_window_counts(a, 16, directory);
  EXPECT_EQ(found.from, kept);
  EXPECT_EQ(found.counts, of_a);
  EXPECT_EQ(find_window_counts(b, 16, directory).counts, of_b);
  // By another name it is the same file.
  fs::create_directory_symlink(directory_.path(), path("link"));
  const TokenFile linked = TokenFile::open((path("link") / "a.bin").string(), 2);
  EXPECT_EQ(find_window_counts(linked, 16, directory).from, kept);
}

TEST_F(WindowCountsTest, ABlockThatPacksOtherwiseEndsTheRunWhereItIsRead) {
  const TokenFile file = tokens("a");
  WindowCounts counts = count_windows(file, contexts)[0];
  ++counts.windows[1];
  const DocumentPacking packing(counts, path("kept"));
  EXPECT_NO_THROW(packing.window(file, 0));
  const std::string message =
      message_of<InputFileError>([&] { packing.window(file, counts.windows[0]); });
  EXPECT_NE(message.find("kept"), std::string::npos) << message;
  EXPECT_NE(message.find("the documents from 4096 on"), std::string::npos) << message;
}

}  // namespace
}  // namespace polymoe
