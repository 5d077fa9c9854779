// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "parallel/checkpoint/directory.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/saver.h"
#include "runtime/error.h"
#include "tests/parallel/checkpoint/sample_checkpoint.h"
#include "tests/parallel/checkpoint/save_fault.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using namespace test;

constexpr int killed = 99;  // the exit code of a process that ends at a point of its save

enum class Kind { disk_full, io_error, kill };

struct Case {
  SavePoint point;
  int rank;  // the points of rank 0 alone come with rank 0
  Kind kind;
};

void PrintTo(const Case& tested, std::ostream* out) {
  const char* points[] = {"staging", "writing", "before_rename", "after_rename", "retention"};
  const char* kinds[] = {"disk_full", "io_error", "kill"};
  *out << points[static_cast<int>(tested.point)] << "_rank_" << tested.rank << '_'
       << kinds[static_cast<int>(tested.kind)];
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Kind kind : {Kind::disk_full, Kind::io_error, Kind::kill}) {
    for (const int rank : {0, 1}) {
      cases.push_back({SavePoint::staging, rank, kind});
      cases.push_back({SavePoint::writing, rank, kind});
    }
    for (const SavePoint point :
         {SavePoint::before_rename, SavePoint::after_rename, SavePoint::retention}) {
      cases.push_back({point, 0, kind});
    }
  }
  return cases;
}

void happen(Kind kind) {
  switch (kind) {
    case Kind::disk_full:
      throw OutputFileError("shard", "cannot write: No space left on device");
    case Kind::io_error:
      throw OutputFileError("shard", "cannot sync: Input/output error");
    case Kind::kill:
      ::_exit(killed);
  }
}

/// Saves `step` on two ranks, keeping two checkpoints. Returns what rank 0 threw; every rank must
/// throw the same.
std::string save_step(const fs::path& root, std::int64_t step, const std::optional<Case>& fault) {
  std::vector<std::string> messages(2);
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    const int rank = world->rank();
    std::optional<Fault> injected;
    if (fault && fault->rank == rank)
      injected.emplace(fault->point, [kind = fault->kind] { happen(kind); });
    Holding holding = slices(rank, 2, DType::f32);
    fill<float>(holding);
    CheckpointSaver saver({.root = root,
                           .keep = 2,
                           .staging_bytes = CheckpointSaver::staging_bytes(holding.pieces),
                           .observer = injected ? &*injected : nullptr},
                          world->split(0));
    Stream stream(Device::cpu());
    saver.start(info_of(step), holding.pieces, stream);
    messages[static_cast<std::size_t>(rank)] = message_of<OutputFileError>([&] { saver.wait(); });
    saver.shutdown();
  });
  EXPECT_EQ(messages[0], messages[1]);
  return messages[0];
}

class SaveFaults : public testing::TestWithParam<Case> {};

TEST_P(SaveFaults, ThePreviousOrTheNewCheckpointIsValid) {
  const Case& tested = GetParam();
  const TemporaryDirectory directory;
  const fs::path& root = directory.path();
  ASSERT_EQ(save_step(root, 1, {}), "");
  ASSERT_EQ(save_step(root, 2, {}), "");

  std::string message;
  if (tested.kind == Kind::kill) {
    const pid_t child = ::fork();
    if (child == 0) {
      save_step(root, 3, tested);
      ::_exit(0);
    }
    ASSERT_GT(child, 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_EQ(WEXITSTATUS(status), killed) << "the save never came to the point";
  } else {
    message = save_step(root, 3, tested);
    EXPECT_NE(message.find(tested.kind == Kind::disk_full ? "No space left on device"
                                                          : "Input/output error"),
              std::string::npos)
        << message;
    EXPECT_NE(message.find(root.string()), std::string::npos) << message;
  }

  const bool in_place =
      tested.point == SavePoint::after_rename || tested.point == SavePoint::retention;
  std::vector<std::string> passed_over;
  const auto newest = newest_checkpoint(root, passed_over);
  ASSERT_TRUE(newest);
  EXPECT_EQ(newest->filename(), checkpoint_name(in_place ? 3 : 2));
  EXPECT_EQ(wrong_after_reading(*newest), 0);
  // What is left of the save is no checkpoint, and is called so.
  for (const std::string& line : passed_over)
    EXPECT_NE(line.find("step-00000003.partial: was never committed"), std::string::npos) << line;
  EXPECT_LE(passed_over.size(), tested.kind == Kind::kill && !in_place ? 1U : 0U);

  // The next save succeeds and sweeps up.
  EXPECT_EQ(save_step(root, 4, {}), "");
  EXPECT_EQ(names_in(root),
            (std::vector<std::string>{checkpoint_name(in_place ? 3 : 2), checkpoint_name(4)}));
  EXPECT_EQ(wrong_after_reading(root / checkpoint_name(4)), 0);
}

INSTANTIATE_TEST_SUITE_P(All, SaveFaults, testing::ValuesIn(all_cases()),
                         testing::PrintToStringParamName());

TEST(SaveFaultsOfOneStep, TheOldCheckpointOfAStepStaysUntilTheNewOneIsInItsPlace) {
  for (const SavePoint point : {SavePoint::writing, SavePoint::before_rename}) {
    const TemporaryDirectory directory;
    ASSERT_EQ(save_step(directory.path(), 5, {}), "");
    const std::string before =
        test::read_bytes(directory.path() / checkpoint_name(5) / "manifest.json");
    EXPECT_NE(save_step(directory.path(), 5, Case{point, 0, Kind::disk_full}), "");
    EXPECT_EQ(names_in(directory.path()), std::vector<std::string>{checkpoint_name(5)});
    EXPECT_EQ(test::read_bytes(directory.path() / checkpoint_name(5) / "manifest.json"), before);
    EXPECT_EQ(wrong_after_reading(directory.path() / checkpoint_name(5)), 0);
  }
}

TEST(SaveFaultsOfTheDirectory, OneThatCannotBeWrittenIsNamedByAllRanks) {
  const TemporaryDirectory directory;
  ASSERT_EQ(save_step(directory.path(), 1, {}), "");
  // Permissions do not bind the superuser; a file in the way binds everybody.
  test::write_bytes(directory.path() / "step-00000002.partial", "");
  fs::create_directories(directory.path() / "root");
  test::write_bytes(directory.path() / "file", "");
  const std::string message = save_step(directory.path() / "file", 2, {});
  EXPECT_NE(message.find("file/step-00000002: not saved"), std::string::npos) << message;
  EXPECT_EQ(save_step(directory.path(), 2, {}), "");  // what is in the way under our name is swept
}

}  // namespace
}  // namespace polymoe
