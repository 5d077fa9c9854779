// SPDX-License-Identifier: Apache-2.0
// Windows that keep to documents: cut from a stream, and packed.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "kernels/documents.h"
#include "launch/data/packed_windows.h"
#include "launch/data/token_data.h"
#include "launch/data/tokenizer_identity.h"
#include "runtime/error.h"
#include "runtime/files/megatron_writer.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;
using Values = std::vector<std::int32_t>;

struct Window {
  explicit Window(std::int64_t context)
      : tokens(static_cast<std::size_t>(context), -7), targets(tokens), starts(tokens) {}
  Values tokens, targets, starts;
};

class DocumentWindows : public ::testing::Test {
 protected:
  /// Documents of these lengths with the ids 1, 2, ... through all of them.
  std::string file(const std::string& name, const std::vector<std::int64_t>& lengths,
                   const Values& uncounted = {}) {
    MegatronWriter writer(directory_.path() / name, 100000, !uncounted.empty());
    std::int32_t next = 1;
    for (const std::int64_t length : lengths) {
      Values ids(static_cast<std::size_t>(length));
      std::iota(ids.begin(), ids.end(), next);
      next += static_cast<std::int32_t>(length);
      std::vector<std::uint8_t> counted;
      for (const std::int32_t id : ids)
        counted.push_back(std::find(uncounted.begin(), uncounted.end(), id) == uncounted.end());
      writer.append(ids, uncounted.empty() ? std::vector<std::uint8_t>() : counted);
      writer.end_document();
    }
    writer.finish();
    return (directory_.path() / (name + ".bin")).string();
  }
  static DataConfig config(const std::string& path, Documents documents, Packing packing) {
    DataConfig config;
    config.train = {{.path = path, .weight = {}}};
    config.documents = documents;
    config.packing = packing;
    return config;
  }
  static TokenData data(const DataConfig& config, std::int64_t context) {
    return TokenData(config, {.context = context, .vocab = 100000, .seed = 3, .samples = 0});
  }
  static Window sample(const TokenData& data, std::int64_t index) {
    Window window(data.context());
    data.sample(index, {.tokens = window.tokens.data(),
                        .targets = window.targets.data(),
                        .document_starts = window.starts.data()});
    return window;
  }
  /// The window that holds token `id`, of one pass.
  static Window window_with(const TokenData& data, std::int32_t id) {
    for (std::int64_t i = 0; i < data.windows(0); ++i) {
      Window window = sample(data, i);
      if (std::find(window.tokens.begin(), window.tokens.end(), id) != window.tokens.end())
        return window;
    }
    ADD_FAILURE() << "no window holds token " << id;
    return Window(data.context());
  }

  test::TemporaryDirectory directory_;
};

TEST_F(DocumentWindows, AStreamIsSplitWhereTheIndexSaysSo) {
  // Windows of tokens 1-6, 7-12, 13-18; documents 1-3, 4-6, 7-15, 16, 17-19.
  const DataConfig mask = config(file("a", {3, 3, 9, 1, 3}), Documents::mask, Packing::stream);
  const TokenData tokens = data(mask, 6);
  EXPECT_TRUE(tokens.masked());
  const Window first = window_with(tokens, 1), second = window_with(tokens, 7),
               third = window_with(tokens, 13);
  EXPECT_EQ(first.starts, (Values{0, 0, 0, 3, 3, 3}));
  EXPECT_EQ(first.targets, (Values{2, 3, -1, 5, 6, -1}));  // 7 begins a document
  EXPECT_EQ(second.starts, (Values{0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(second.targets, (Values{8, 9, 10, 11, 12, 13}));
  EXPECT_EQ(third.starts, (Values{0, 0, 0, 3, 4, 4}));
  EXPECT_EQ(third.targets, (Values{14, 15, -1, -1, 18, 19}));
}

TEST_F(DocumentWindows, AStreamWithoutAnIndexIsSplitBehindTheEndOfText) {
  const std::vector<std::uint16_t> ids = {5, 9, 4, 4, 9, 9, 3, 9, 8};
  const auto path = directory_.path() / "raw.npy";
  test::write_bytes(path, std::string(reinterpret_cast<const char*>(ids.data()), 2 * ids.size()));
  DataConfig mask = config(path.string(), Documents::mask, Packing::stream);
  EXPECT_EQ(message_of<InputFileError>([&] { data(mask, 4); }),
            path.string() +
                ": does not say where its documents end, as data.documents = mask needs it: it has "
                "no index with documents; set data.end_of_text to the id that ends them");
  const auto expect_split = [&] {
    const TokenData tokens = data(mask, 4);
    const Window first = window_with(tokens, 5), second = window_with(tokens, 3);
    EXPECT_EQ(first.starts, (Values{0, 0, 2, 2}));
    EXPECT_EQ(first.targets, (Values{9, -1, 4, 9}));
    EXPECT_EQ(second.starts, (Values{0, 1, 2, 2}));
    EXPECT_EQ(second.targets, (Values{-1, -1, 9, -1}));
  };
  mask.end_of_text = 9;
  expect_split();
  // Or as the description says.
  mask.end_of_text = -1;
  describe_tokens({.tokenizer = {.name = "t", .hash = "1", .vocab = 10}, .end_of_document = 9},
                  directory_.path() / "raw");
  expect_split();
}

TEST_F(DocumentWindows, PackedOnesHoldWholeDocumentsWhereTheyLeaveTheLeastRoom) {
  // Rows: 3, 6, 5, 2, 4 of windows of 8; the sixth document predicts nothing.
  const std::string path = file("a", {4, 7, 6, 3, 5, 1}, {2});
  const TokenData masked = data(config(path, Documents::mask, Packing::documents), 8);
  EXPECT_EQ(masked.windows(0), 3);
  EXPECT_DOUBLE_EQ(masked.filled(0), 20.0 / 24.0);
  // 6 with 2; 5 with 3; 4 alone.
  const Window first = window_with(masked, 5);
  EXPECT_EQ(first.tokens, (Values{5, 6, 7, 8, 9, 10, 18, 19}));
  EXPECT_EQ(first.targets, (Values{6, 7, 8, 9, 10, 11, 19, 20}));
  EXPECT_EQ(first.starts, (Values{0, 0, 0, 0, 0, 0, 6, 6}));
  const Window second = window_with(masked, 1);
  EXPECT_EQ(second.tokens, (Values{12, 13, 14, 15, 16, 1, 2, 3}));
  EXPECT_EQ(second.targets, (Values{13, 14, 15, 16, 17, -1, 3, 4}));  // token 2 does not count
  EXPECT_EQ(second.starts, (Values{0, 0, 0, 0, 0, 5, 5, 5}));
  const Window third = window_with(masked, 21);
  EXPECT_EQ(third.tokens, (Values{21, 22, 23, 24, 0, 0, 0, 0}));
  EXPECT_EQ(third.targets, (Values{22, 23, 24, 25, -1, -1, -1, -1}));
  EXPECT_EQ(third.starts, (Values{0, 0, 0, 0, no_document, no_document, no_document, no_document}));
  // Without the mask only padding is told from the rest.
  const Window open = window_with(data(config(path, Documents::ignore, Packing::documents), 8), 21);
  EXPECT_EQ(open.targets, third.targets);
  EXPECT_EQ(window_with(data(config(path, Documents::ignore, Packing::documents), 8), 5).starts,
            Values(8, 0));
}

TEST_F(DocumentWindows, EveryPredictionIsInOneWindowOfAPass) {
  // More than two blocks of documents, some longer than a window.
  std::vector<std::int64_t> lengths;
  std::int64_t rows = 0, tokens = 0;
  for (std::int64_t i = 0; i < 2 * packing_block_documents + 100; ++i) {
    lengths.push_back(i % 97 == 0 ? 40 : i * i % 11);
    rows += std::max<std::int64_t>(lengths.back() - 1, 0);
    tokens += lengths.back();
  }
  const DataConfig packed = config(file("many", lengths), Documents::mask, Packing::documents);
  const TokenData one = data(packed, 16), other = data(packed, 16);
  EXPECT_GT(one.filled(0), 0.95);
  std::vector<bool> predicted(static_cast<std::size_t>(tokens) + 1);
  std::int64_t seen = 0;
  for (std::int64_t i = 0; i < one.windows(0); ++i) {
    const Window window = sample(one, i);
    if (i % 50 == 0) {
      const Window again = sample(other, i);
      EXPECT_EQ(window.tokens, again.tokens);
      EXPECT_EQ(window.starts, again.starts);
    }
    for (std::size_t row = 0; row < window.tokens.size(); ++row) {
      if (window.starts[row] == no_document) continue;
      ASSERT_EQ(window.targets[row], window.tokens[row] + 1);
      ASSERT_FALSE(predicted.at(static_cast<std::size_t>(window.targets[row])));
      predicted[static_cast<std::size_t>(window.targets[row])] = true;
      ++seen;
    }
  }
  EXPECT_EQ(seen, rows);
}

TEST(NumberSet, KnowsTheNextNumber) {
  for (const std::int64_t size : {1, 63, 64, 65, 4096, 5000, 300000}) {
    SCOPED_TRACE(size);
    NumberSet numbers(size);
    std::set<std::int64_t> expected;
    EXPECT_EQ(numbers.next(0), -1);
    std::uint64_t state = 5;
    for (int i = 0; i < 300; ++i) {
      state = state * 6364136223846793005U + 1442695040888963407U;
      const auto number =
          static_cast<std::int64_t>((state >> 33U) % static_cast<std::uint64_t>(size));
      if (i % 3 == 2) {
        numbers.erase(number);
        expected.erase(number);
      } else {
        numbers.insert(number);
        expected.insert(number);
      }
      const std::int64_t from = (number * 7 + i) % (size + 70);
      const auto next = expected.lower_bound(from);
      ASSERT_EQ(numbers.next(from), next == expected.end() ? -1 : *next) << "from " << from;
    }
  }
}

/// Each document, from the longest on, in the window where it leaves the least room.
PackedWindows::Count packed_one_by_one(std::vector<std::int64_t> lengths, std::int64_t context) {
  PackedWindows::Count count;
  std::sort(lengths.rbegin(), lengths.rend());
  std::vector<std::int64_t> rests, rooms;
  for (const std::int64_t length : lengths) {
    const std::int64_t rows = std::max<std::int64_t>(length - 1, 0);
    count.rows += rows;
    count.windows += rows / context;
    if (rows % context > 0) rests.push_back(rows % context);
  }
  std::sort(rests.rbegin(), rests.rend());
  for (const std::int64_t rest : rests) {
    auto best = rooms.end();
    for (auto room = rooms.begin(); room != rooms.end(); ++room)
      if (*room >= rest && (best == rooms.end() || *room < *best)) best = room;
    if (best == rooms.end()) best = rooms.insert(rooms.end(), context);
    *best -= rest;
  }
  count.windows += static_cast<std::int64_t>(rooms.size());
  return count;
}

TEST(PackedWindows, AreCountedAsTheyArePacked) {
  std::uint64_t state = 9;
  const auto draw = [&](std::int64_t below) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::int64_t>((state >> 33U) % static_cast<std::uint64_t>(below));
  };
  for (const std::int64_t context : {1, 2, 16, 100, 8192}) {
    PackedWindows packed(context);
    for (const std::int64_t longest :
         {3, 30, 900, 20000}) {  // one after the other: nothing is left over
      std::vector<std::int64_t> lengths, bounds = {draw(1000)};
      for (int i = 0; i < 400; ++i) {
        lengths.push_back(draw(longest));
        bounds.push_back(bounds.back() + lengths.back());
      }
      const PackedWindows::Count found = packed.count(bounds),
                                 expected = packed_one_by_one(lengths, context);
      EXPECT_EQ(found.windows, expected.windows) << context << ", up to " << longest;
      EXPECT_EQ(found.rows, expected.rows);
    }
  }
}

TEST_F(DocumentWindows, StagesOfPackedFilesBeginAtTheirTokensInWholeWindows) {
  const std::vector<std::int64_t> lengths(40, 9);  // two documents a window of 16
  DataConfig staged = config(file("a", lengths), Documents::mask, Packing::documents);
  staged.stages = {{.tokens = 33, .files = {{.path = file("b", lengths), .weight = {}}}}};
  const TokenData tokens = data(staged, 16);
  // 33 tokens: three windows of rows, filled or not, from the first file.
  EXPECT_EQ(tokens.windows_drawn(3), (std::vector<std::int64_t>{3, 0}));
  EXPECT_EQ(tokens.windows_drawn(10), (std::vector<std::int64_t>{3, 7}));
  std::set<std::int32_t> begins;
  for (std::int64_t i = 0; i < 10; ++i) {
    const Window window = sample(tokens, i);
    EXPECT_EQ(window.starts, (Values{0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8}));
    begins.insert(window.tokens[0]);
  }
  EXPECT_GE(begins.size(), 7U);  // windows of a file do not come again
}

TEST_F(DocumentWindows, WhatHasNoDocumentsIsRefused) {
  const auto path = directory_.path() / "raw.npy";
  test::write_bytes(path, std::string(64, '\1'));
  EXPECT_EQ(message_of<InputFileError>(
                [&] { data(config(path.string(), Documents::mask, Packing::documents), 4); }),
            path.string() +
                ": names no documents, which data.packing = documents needs: it takes Megatron "
                "files whose index has them");
  const std::string lone = file("lone", {1, 1, 1});
  EXPECT_EQ(message_of<InputFileError>(
                [&] { data(config(lone, Documents::mask, Packing::documents), 4); }),
            lone + ": has no document of two tokens or more");
}

}  // namespace
}  // namespace polymoe
