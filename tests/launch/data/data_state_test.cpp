// SPDX-License-Identifier: Apache-2.0
#include "launch/data/data_state.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "runtime/files/megatron_writer.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

DataState::File file(const std::string& path, const std::string& hash, std::int64_t slot,
                     std::int64_t start, std::int64_t drawn) {
  return {.identity = {.path = path,
                       .bytes = 2000,
                       .modified = 7,
                       .tokens = 1000,
                       .documents = 3,
                       .hash = hash},
          .position = {.slot = slot, .start = start},
          .drawn = drawn,
          .windows = 60};
}
DataState::File now(const std::string& path, const std::string& hash) {
  return file(path, hash, 0, 0, 0);
}
const DataState before{.sample = 10,
                       .tokens = 160,
                       .mixture = "m",
                       .files = {file("a", "1", 0, 4, 20), file("b", "2", 1, 6, 30)},
                       .tokenizer = TokenizerIdentity{.name = "t", .hash = "9", .vocab = 5}};

TEST(DataState, PassesThroughACheckpoint) {
  const DataState again = DataState::from_json(parse_json(before.to_json().dump(), "state"));
  EXPECT_EQ(again.to_json().dump(), before.to_json().dump());
  EXPECT_EQ(again.files[1].drawn, 30);
  EXPECT_TRUE(again.tokenizer->same_as(*before.tokenizer));
  EXPECT_THROW(DataState::from_json(parse_json("{}", "state")), InvalidArgument);
}

TEST(ContinueData, SameFilesAndMixtureGoOnInTheSameOrder) {
  const auto next = continue_data(before, {now("a", "1"), now("b", "2")}, "m", 50, 800, false);
  EXPECT_EQ(next.position.sample, 10);
  EXPECT_EQ(next.position.tokens, 160);
  EXPECT_EQ(next.position.files[1].start, 6);
  EXPECT_EQ(next.position.files[1].slot, 1);
  EXPECT_TRUE(next.notes.empty());
}

TEST(ContinueData, AnotherMixtureBeginsWhereEachFileWas) {
  // b goes on first in the list, a is left out, c is new.
  const auto next = continue_data(before, {now("b", "2"), now("c", "3")}, "n", 50, 800, false);
  EXPECT_EQ(next.position.sample, 50);
  EXPECT_EQ(next.position.tokens, 800);
  EXPECT_EQ(next.position.files[0].start, 30);
  EXPECT_EQ(next.position.files[0].slot, 1);
  EXPECT_EQ(next.position.files[1].start, 0);
  EXPECT_EQ(next.position.files[1].slot, 2);
  ASSERT_EQ(next.unused.size(), 1U);
  EXPECT_EQ(next.unused[0].identity.path, "a");
  EXPECT_EQ(next.notes.size(), 2U);  // of c and of a

  // And a comes back where it was left.
  DataState later = before;
  later.mixture = "n";
  later.files = {file("b", "2", 1, 30, 40), file("c", "3", 2, 0, 9), next.unused[0]};
  const auto back = continue_data(later, {now("a", "1"), now("b", "2")}, "m", 90, 1440, false);
  EXPECT_EQ(back.position.files[0].start, 20);
  EXPECT_EQ(back.position.files[1].start, 40);
}

TEST(ContinueData, AFileIsKnownByItsContentUnderAnotherPath) {
  const auto next =
      continue_data(before, {now("a", "1"), now("moved/b", "2")}, "n", 50, 800, false);
  EXPECT_EQ(next.position.files[1].start, 30);
  ASSERT_EQ(next.notes.size(), 1U);
  EXPECT_NE(next.notes[0].find("moved/b is what was b"), std::string::npos);
}

TEST(ContinueData, AChangedFileIsRefusedOrTakenAsNew) {
  std::vector<DataState::File> files = {now("a", "1"), now("b", "2")};
  const auto refusal = [&] {
    return test::message_of<InputFileError>(
        [&] { continue_data(before, files, "m", 50, 800, false); });
  };
  files[1].identity.hash = "other";
  EXPECT_NE(refusal().find("b: has other tokens"), std::string::npos) << refusal();
  files[1].identity.tokens = 2000;
  EXPECT_NE(refusal().find("2,000 tokens instead of 1,000"), std::string::npos) << refusal();
  const auto next = continue_data(before, files, "m", 50, 800, true);
  EXPECT_EQ(next.position.sample, 50);
  EXPECT_EQ(next.position.files[0].start, 20);
  EXPECT_EQ(next.position.files[1].start, 0);
  EXPECT_EQ(next.position.files[1].slot, 2);  // an order of its own
}

TEST(ContinueData, OtherWindowsGoOnAtTheSameShareOfThePass) {
  std::vector<DataState::File> files = {now("a", "1"), now("b", "2")};
  for (DataState::File& one : files) one.windows = 30;
  const auto next = continue_data(before, files, "longer", 50, 800, false);
  EXPECT_EQ(next.position.files[0].start, 10);
  EXPECT_EQ(next.position.files[1].start, 15);
}

TEST(FileIdentity, FollowsContentAndNotThePath) {
  const test::TemporaryDirectory directory;
  const auto write = [&](const std::string& name, std::int32_t first) {
    MegatronWriter writer(directory.path() / name, 100);
    std::vector<std::int32_t> ids(20'000, 3);
    ids[0] = first;
    writer.add(ids);
    writer.finish();
    return FileIdentity::of(TokenFile::open(directory.path() / name, 2), name);
  };
  const FileIdentity a = write("a", 1), copy = write("copy", 1), other = write("other", 2);
  EXPECT_EQ(copy.difference_to(a), "");
  EXPECT_NE(other.difference_to(a), "");
}

}  // namespace
}  // namespace polymoe
