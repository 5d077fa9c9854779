// SPDX-License-Identifier: Apache-2.0
// The program under mpirun, one rank killed at each phase of a save, and the run that goes on.
#include <gtest/gtest.h>

#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "launch/machine/exit_code.h"
#include "parallel/checkpoint/directory.h"
#include "parallel/checkpoint/names.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/process.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::ProcessResult;
using test::read_bytes;
using test::run_process;

constexpr int killed_by_signal = 128 + 9;

struct Case {
  const char* point;
  const char* rank;
  std::int64_t newest;  // the step of the newest valid checkpoint afterwards
};

void PrintTo(const Case& tested, std::ostream* out) {
  *out << tested.point << "_rank_" << tested.rank;
}

/// Seven steps on two ranks, a checkpoint at each second one and the last; the newest stays, and
/// until the end the one before.
class KilledSave : public testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::TemporaryDirectory;
    test::write_tokens(directory_->path() / "tokens", 4000, 64, 1);
    Config config = test::tiny_config(directory_->path());
    config.train.steps = 7;
    config.checkpoint.every = 2;
    config.checkpoint.keep = 1;
    config.parallel.expert = 2;
    test::write_bytes(directory_->path() / "tiny.ini", to_ini(config));
    const ProcessResult straight = run({POLYMOE_PROGRAM}, "straight");
    ASSERT_EQ(straight.exit_code, exit_done) << straight.standard_error;
  }
  static void TearDownTestSuite() { delete directory_; }

  static fs::path checkpoints(const std::string& run) {
    return directory_->path() / run / "checkpoints";
  }
  /// Trains in the directory `run` with the program, which may have leading arguments.
  static ProcessResult run(std::vector<std::string> program, const std::string& run) {
    std::vector<std::string> command = {POLYMOE_LAUNCHER, "2"};
    command.insert(command.end(), program.begin(), program.end());
    command.insert(command.end(), {"train", "--config", (directory_->path() / "tiny.ini").string(),
                                   "--run.dir=" + (directory_->path() / run).string()});
    return run_process(command);
  }

  static inline test::TemporaryDirectory* directory_ = nullptr;
};

TEST_P(KilledSave, LeavesAValidCheckpointFromWhichTheRunGoesOn) {
  const Case& tested = GetParam();
  const std::string name = testing::PrintToString(tested);
  const ProcessResult killed = run({POLYMOE_KILLED_SAVE, tested.point, tested.rank}, name);
  EXPECT_TRUE(killed.exit_code == exit_communication || killed.exit_code == killed_by_signal)
      << killed.exit_code << ": " << killed.standard_error;

  std::vector<std::string> passed_over;
  const auto newest = newest_checkpoint(checkpoints(name), passed_over);
  ASSERT_TRUE(newest) << killed.standard_error;
  EXPECT_EQ(newest->filename(), checkpoint_name(tested.newest));
  for (const std::string& line : passed_over)
    EXPECT_NE(line.find(".partial: was never committed"), std::string::npos) << line;

  const ProcessResult resumed = run({POLYMOE_PROGRAM}, name);
  ASSERT_EQ(resumed.exit_code, exit_done) << resumed.standard_error;
  const fs::path last = checkpoints(name) / checkpoint_name(7);
  for (const std::string& file : {shard_name(0, 2), shard_name(1, 2), std::string("view.h5")})
    EXPECT_EQ(read_bytes(last / file),
              read_bytes(checkpoints("straight") / checkpoint_name(7) / file))
        << file;
  // Nothing is left of the save that was cut off.
  EXPECT_EQ(std::distance(fs::directory_iterator(checkpoints(name)), fs::directory_iterator()), 1);
}

INSTANTIATE_TEST_SUITE_P(Points, KilledSave,
                         testing::Values(Case{"staging", "1", 2}, Case{"writing", "1", 2},
                                         Case{"before_rename", "0", 2},
                                         Case{"after_rename", "0", 4}, Case{"retention", "0", 6}),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace polymoe
