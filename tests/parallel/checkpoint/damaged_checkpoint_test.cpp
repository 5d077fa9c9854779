// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "parallel/checkpoint/directory.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/error.h"
#include "runtime/files/hash.h"
#include "tests/parallel/checkpoint/sample_checkpoint.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using namespace test;

class DamagedCheckpoint : public testing::Test {
 protected:
  DamagedCheckpoint() : checkpoint_(save(directory_.path(), 9, 2)) {}
  /// The message of the InputFileError that opening or reading gives.
  std::string error() {
    return message_of<InputFileError>([&] { wrong_after_reading(checkpoint_); });
  }
  TemporaryDirectory directory_;
  fs::path checkpoint_;
};

TEST_F(DamagedCheckpoint, AnyFlippedBitOfTheManifestIsFound) {
  const std::string whole = test::read_bytes(checkpoint_ / "manifest.json");
  for (std::size_t byte = 0; byte < whole.size(); ++byte) {
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << (byte % 8)));
    EXPECT_THROW(CheckpointManifest::parse(damaged, "path"), InputFileError) << byte;
  }
  for (std::size_t size = 0; size < whole.size(); size += 13) {
    EXPECT_THROW(CheckpointManifest::parse(whole.substr(0, size), "path"), InputFileError) << size;
  }
  EXPECT_THROW(CheckpointManifest::parse(whole + " ", "path"), InputFileError);
  EXPECT_EQ(CheckpointManifest::parse(whole, "path").to_text(), whole);
}

TEST_F(DamagedCheckpoint, FlippedBitsOfAShardAreFoundBeforeHdf5SeesThem) {
  const fs::path shard = checkpoint_ / "shard-00001-of-00002.h5";
  const std::string whole = test::read_bytes(shard);
  for (std::size_t byte = 0; byte < whole.size(); byte += 31) {
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << (byte % 8)));
    test::write_bytes(shard, damaged);
    EXPECT_NE(error().find("shard-00001-of-00002.h5: is damaged"), std::string::npos) << byte;
  }
  test::write_bytes(shard, whole);
  EXPECT_EQ(error(), "");
}

TEST_F(DamagedCheckpoint, FlippedBitsOfTheViewAreFound) {
  const fs::path view = checkpoint_ / "view.h5";
  const std::string whole = test::read_bytes(view);
  const auto hash_error = [&] {
    return message_of<InputFileError>([&] { CheckpointReader(checkpoint_).verify_hashes(); });
  };
  for (std::size_t byte = 0; byte < whole.size(); byte += 97) {
    std::string damaged = whole;
    damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << (byte % 8)));
    test::write_bytes(view, damaged);
    EXPECT_NE(hash_error().find("view.h5: is damaged"), std::string::npos) << byte;
  }
  test::write_bytes(view, whole);
  EXPECT_EQ(hash_error(), "");
  fs::remove(view);
  EXPECT_NE(hash_error().find("view.h5: cannot open"), std::string::npos);
}

TEST_F(DamagedCheckpoint, TruncatedMissingAndSwappedShardsAreFound) {
  const fs::path first = checkpoint_ / "shard-00000-of-00002.h5";
  const fs::path second = checkpoint_ / "shard-00001-of-00002.h5";
  const std::string whole = test::read_bytes(first), other = test::read_bytes(second);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, whole.size() - 1}) {
    test::write_bytes(first, whole.substr(0, size));
    EXPECT_NE(error().find("the manifest says " + std::to_string(whole.size())), std::string::npos);
  }
  test::write_bytes(first, other);
  test::write_bytes(second, whole);
  EXPECT_NE(error().find("shard-00000-of-00002.h5: has "), std::string::npos);
  test::write_bytes(second, other);
  // The same rank's shard of another checkpoint: of the right size, with other values.
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    const Holding zeros = slices(world->rank(), 2, DType::f32);
    save_checkpoint(directory_.path() / "other", info_of(9), zeros.pieces, *world);
  });
  const std::string stale =
      test::read_bytes(directory_.path() / "other" / "step-00000009" / first.filename());
  ASSERT_EQ(stale.size(), whole.size());
  test::write_bytes(first, stale);
  EXPECT_NE(error().find("shard-00000-of-00002.h5: is damaged"), std::string::npos);
  test::write_bytes(first, whole);
  fs::remove(second);
  EXPECT_NE(error().find("shard-00001-of-00002.h5: cannot open"), std::string::npos);
  fs::remove(checkpoint_ / "manifest.json");
  EXPECT_NE(error().find("manifest.json: cannot open"), std::string::npos);
}

TEST_F(DamagedCheckpoint, AManifestThatLiesWithAGoodHashIsRefused) {
  const std::string whole = test::read_bytes(checkpoint_ / "manifest.json");
  const auto error_with = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const std::size_t tail = text.rfind(",\n");
    text = text.substr(0, tail) + ",\n  \"xxh3\": \"" + xxh3_of(text.substr(0, tail)) + "\"\n}\n";
    return message_of<InputFileError>([&] { CheckpointManifest::parse(text, "path"); });
  };
  EXPECT_EQ(error_with("\"step\": 9", "\"step\": 10"), "");
  EXPECT_EQ(error_with("\"version\": 3", "\"version\": 4"),
            "path: has format version 4; this program reads up to 3");
  EXPECT_NE(error_with("\"version\": 3", "\"version\": 2"), "");
  EXPECT_NE(error_with("\"offset\": ", "\"offset\": -"), "");
  EXPECT_NE(error_with("\"offset\": ", "\"offset\": 900000").find("at byte 900000"),
            std::string::npos);
  EXPECT_NE(error_with("\"offset\": ", "\"offset\": 922337203685477"), "");
  EXPECT_NE(error_with("\"view.h5\"", "\"../view.h5\""), "");
  EXPECT_NE(error_with("polymoe checkpoint", "something else"), "");
  EXPECT_NE(error_with("\"shard-00000-of-00002.h5\"", "\"../shard-00000-of-00002.h5\""), "");
  EXPECT_NE(error_with("\"ranks\": 2", "\"ranks\": 3"), "");
  EXPECT_NE(error_with("\"file\": 1", "\"file\": 2"), "");
  EXPECT_NE(error_with("\"shape\": [33, 5]", "\"shape\": [33, 6]"), "");
  EXPECT_NE(error_with("\"shape\": [33, 5]", "\"shape\": [33, -5]"), "");
  EXPECT_NE(error_with("\"shape\": [33, 5]", "\"shape\": [4294967296, 4294967296]"), "");
  EXPECT_NE(error_with("\"shape\": [33, 5]", "\"shape\": [33, 5, 1, 1, 1]"), "");
  EXPECT_NE(error_with("\"dtype\": \"f32\"", "\"dtype\": \"f16\""), "");
  EXPECT_NE(error_with("\"step\": 9", "\"step\":  9"), "");
  EXPECT_NE(error_with("\"step\": 9", "\"other\": 1, \"step\": 9"), "");
}

TEST_F(DamagedCheckpoint, WhatVersion2CannotSayIsRefused) {
  const std::string path =
      (fs::path(POLYMOE_FIXTURES) / "checkpoint-v2" / "manifest.json").string();
  std::string text = test::read_bytes(path);
  const std::string f32 = "\"dtype\": \"f32\"";
  text.replace(text.find(f32), f32.size(), "\"dtype\": \"bf16\"");
  EXPECT_EQ(message_of<InputFileError>([&] { CheckpointManifest::parse(text, "path"); }),
            "path: has the dtype bf16 in format version 2");
}

TEST_F(DamagedCheckpoint, NoHdf5IsNeededToReadAndNoneIsReached) {
  // A shard that is no HDF5 file at all, with a manifest to fit: what a forger may do.
  const fs::path shard = checkpoint_ / "shard-00000-of-00002.h5";
  std::string bytes = test::read_bytes(shard);
  bytes.replace(0, 8, "nothing!");
  test::write_bytes(shard, bytes);
  CheckpointManifest manifest =
      CheckpointManifest::parse(test::read_bytes(checkpoint_ / manifest_name), "path");
  manifest.files[0].xxh3 = xxh3_of(bytes);
  test::write_bytes(checkpoint_ / manifest_name, manifest.to_text());
  EXPECT_EQ(wrong_after_reading(checkpoint_), 0);
  manifest.version = 2;
  test::write_bytes(checkpoint_ / manifest_name, manifest.to_text());
  EXPECT_NE(error().find("cannot open as HDF5"), std::string::npos);
}

TEST(NewestCheckpoint, PassesOverWhatIsNotValidAndSaysWhy) {
  TemporaryDirectory directory;
  std::vector<std::string> passed_over;
  EXPECT_EQ(newest_checkpoint(directory.path() / "none", passed_over), std::nullopt);
  EXPECT_EQ(newest_checkpoint(directory.path(), passed_over), std::nullopt);
  save(directory.path(), 1, 1);
  const fs::path good = save(directory.path(), 20, 2);
  const fs::path damaged = save(directory.path(), 30, 2);
  fs::create_directory(directory.path() / "step-00000005.partial");
  fs::create_directory(directory.path() / "step-00000040.partial");
  fs::create_directory(directory.path() / "step-00000050");
  for (const char* other : {"step-7", "step-00000060.copy", "step-x", "other"}) {
    fs::create_directory(directory.path() / other);
  }
  std::string bytes = test::read_bytes(damaged / "shard-00001-of-00002.h5");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  test::write_bytes(damaged / "shard-00001-of-00002.h5", bytes);
  EXPECT_EQ(newest_checkpoint(directory.path(), passed_over), good);
  ASSERT_EQ(passed_over.size(), 3u);
  EXPECT_NE(passed_over[0].find("step-00000050/manifest.json: cannot open"), std::string::npos);
  EXPECT_NE(passed_over[1].find("step-00000040.partial: was never committed"), std::string::npos);
  EXPECT_NE(passed_over[2].find("shard-00001-of-00002.h5: is damaged"), std::string::npos);
}

TEST(NewestCheckpoint, FindsTheOldOneOfAReplacementThatWasCutOff) {
  TemporaryDirectory directory;
  const fs::path checkpoint = save(directory.path(), 3, 1);
  const fs::path replaced = directory.path() / "step-00000003.replaced";
  fs::rename(checkpoint, replaced);
  std::vector<std::string> passed_over;
  EXPECT_EQ(newest_checkpoint(directory.path(), passed_over), replaced);
  save(directory.path(), 3, 2);
  EXPECT_EQ(newest_checkpoint(directory.path(), passed_over), checkpoint);
  EXPECT_TRUE(passed_over.empty());
  prune_checkpoints(directory.path(), 0);
  EXPECT_EQ(names_in(directory.path()), std::vector<std::string>{"step-00000003"});
}

TEST(PruneCheckpoints, KeepsTheNewestValidOnes) {
  TemporaryDirectory directory;
  for (const std::int64_t step : {1, 2, 3, 4}) save(directory.path(), step, 1);
  fs::create_directory(directory.path() / "step-00000002.partial");
  test::write_bytes(directory.path() / "notes.txt", "");
  prune_checkpoints(directory.path(), 0);
  EXPECT_EQ(names_in(directory.path()),
            (std::vector<std::string>{"notes.txt", "step-00000001", "step-00000002",
                                      "step-00000003", "step-00000004"}));
  fs::remove(directory.path() / "step-00000003" / "shard-00000-of-00001.h5");
  prune_checkpoints(directory.path(), 2);
  EXPECT_EQ(
      names_in(directory.path()),
      (std::vector<std::string>{"notes.txt", "step-00000002", "step-00000003", "step-00000004"}));
  prune_checkpoints(directory.path(), 1);
  EXPECT_EQ(names_in(directory.path()), (std::vector<std::string>{"notes.txt", "step-00000004"}));
}

}  // namespace
}  // namespace polymoe
