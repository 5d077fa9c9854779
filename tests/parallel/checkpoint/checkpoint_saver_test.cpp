// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/saver.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/checkpoint/writer.h"
#include "runtime/error.h"
#include "tests/parallel/checkpoint/sample_checkpoint.h"
#include "tests/parallel/checkpoint/save_fault.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using namespace test;

/// A rank with its pieces and its saver.
struct SavingRank {
  SavingRank(const fs::path& root, Communicator& world, SaveObserver* observer = nullptr,
             std::int64_t keep = 0, bool staging = true)
      : holding(slices(world.rank(), world.size(), DType::f32)),
        saver({.root = root,
               .keep = keep,
               .staging_bytes = staging ? CheckpointSaver::staging_bytes(holding.pieces) : 0,
               .observer = observer},
              world.split(0)) {
    fill<float>(holding);
  }
  void start(std::int64_t step) { saver.start(info_of(step), holding.pieces, stream); }

  Holding holding;
  Stream stream{Device::cpu()};
  CheckpointSaver saver;
};

void spoil(Holding& holding) {
  for (TensorPiece& piece : holding.pieces)
    for (std::int64_t i = 0; i < piece.data.elements(); ++i) piece.data.data<float>()[i] = -1.0F;
}

TEST(CheckpointSaver, SavesWhatThePiecesHeldWhileTheirOwnersGoOn) {
  for (const int ranks : {1, 2, 4}) {
    const TemporaryDirectory directory;
    run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
      Pause pause(SavePoint::writing);
      SavingRank rank(directory.path(), *world, &pause);
      rank.start(3);
      spoil(rank.holding);
      // Operations of the ranks do not meet those of the save, which is stopped in the middle.
      for (int i = 0; i < 5; ++i) world->barrier();
      EXPECT_FALSE(fs::exists(directory.path() / "step-00000003"));
      EXPECT_EQ(rank.saver.committed(), -1);
      EXPECT_FALSE(rank.saver.failed());
      pause.end();
      rank.saver.wait();
      EXPECT_EQ(rank.saver.committed(), 3);
      rank.saver.shutdown();
    });
    EXPECT_EQ(wrong_after_reading(directory.path() / "step-00000003"), 0);
  }
}

TEST(CheckpointSaver, WritesTheBytesOfAPlainSave) {
  const TemporaryDirectory directory;
  for (const bool staging : {true, false}) {
    const fs::path root = directory.path() / (staging ? "staged" : "direct");
    run_ranks(2, [&](std::unique_ptr<Communicator> world) {
      SavingRank rank(root, *world, nullptr, 0, staging);
      rank.start(7);
      rank.saver.shutdown();
    });
    run_ranks(2, [&](std::unique_ptr<Communicator> world) {
      Holding holding = slices(world->rank(), 2, DType::f32);
      fill<float>(holding);
      save_checkpoint(directory.path() / "plain", info_of(7), holding.pieces, *world);
    });
    const fs::path plain = directory.path() / "plain" / "step-00000007";
    for (const std::string& name : names_in(plain))
      EXPECT_EQ(test::read_bytes(root / "step-00000007" / name), test::read_bytes(plain / name))
          << name;
  }
}

TEST(CheckpointSaver, ASecondSaveWaitsForTheFirstAndRetentionFollowsEach) {
  const TemporaryDirectory directory;
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    SavingRank rank(directory.path(), *world, nullptr, 2);
    for (std::int64_t step = 1; step <= 5; ++step) {
      rank.start(step);
      EXPECT_GE(rank.saver.committed(), step == 1 ? -1 : step - 1);
    }
    rank.saver.shutdown();
  });
  EXPECT_EQ(names_in(directory.path()),
            (std::vector<std::string>{"step-00000004", "step-00000005"}));
}

TEST(CheckpointSaver, StagingMemoryIsBounded) {
  const TemporaryDirectory directory;
  run_ranks(1, [&](std::unique_ptr<Communicator> world) {
    SavingRank rank(directory.path(), *world);
    rank.holding.add("more", {64}, DType::f32, 0, 64);
    const std::string message = message_of<InvalidArgument>([&] { rank.start(1); });
    EXPECT_NE(message.find("staging memory has "), std::string::npos) << message;
  });
  EXPECT_TRUE(names_in(directory.path()).empty());
}

TEST(CheckpointSaver, AnErrorOfOneRankIsThrownOnceByAllAndTheNextSaveSucceeds) {
  const TemporaryDirectory directory;
  std::vector<std::string> messages(4);
  run_ranks(4, [&](std::unique_ptr<Communicator> world) {
    Fault fault(SavePoint::writing,
                [] { throw OutputFileError("shard", "No space left on device"); });
    SavingRank rank(directory.path(), *world, world->rank() == 2 ? &fault : nullptr);
    rank.start(1);
    messages[static_cast<std::size_t>(world->rank())] =
        message_of<OutputFileError>([&] { rank.saver.wait(); });
    EXPECT_FALSE(rank.saver.failed());
    EXPECT_NO_THROW(rank.saver.wait());
    fault.disarm();
    rank.start(2);
    rank.saver.shutdown();
    EXPECT_EQ(rank.saver.committed(), 2);
  });
  for (const std::string& message : messages) {
    EXPECT_NE(message.find("rank 2: shard: No space left on device"), std::string::npos) << message;
    EXPECT_EQ(message, messages[0]);
  }
  EXPECT_EQ(names_in(directory.path()), std::vector<std::string>{"step-00000002"});
  EXPECT_EQ(wrong_after_reading(directory.path() / "step-00000002"), 0);
}

TEST(CheckpointSaver, ARankThatLeavesInTheMiddleDoesNotWaitForItsPeers) {
  const TemporaryDirectory directory;
  save(directory.path(), 1, 2);
  std::promise<void> left;
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    Pause pause(SavePoint::writing);
    std::optional<SavingRank> rank;
    rank.emplace(directory.path(), *world, world->rank() == 1 ? &pause : nullptr);
    rank->start(2);
    if (world->rank() == 0) {
      rank.reset();  // its save waits for rank 1, which is busy until rank 0 is gone
      left.set_value();
    } else {
      left.get_future().wait();
      pause.end();
      EXPECT_THROW(rank->saver.wait(), CommunicationError);
    }
  });
  EXPECT_EQ(wrong_after_reading(directory.path() / "step-00000001"), 0);
}

}  // namespace
}  // namespace polymoe
