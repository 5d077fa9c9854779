// SPDX-License-Identifier: Apache-2.0
#include "launch/explaining/monitor.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

/// The content of a file, once its last line is there; empty where it is not within two minutes.
std::string content_of(const std::filesystem::path& file) {
  for (int i = 0; i < 1200; ++i) {
    std::ifstream stream(file);
    const std::string text((std::istreambuf_iterator<char>(stream)), {});
    if (text.ends_with("\n")) return text;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return "";
}

TEST(AlarmTest, FindsWhatIsKnownInItsEnvironment) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / "told";
  EXPECT_EQ(start_alarm("echo \"$POLYMOE_RUN: $POLYMOE_ALARM\" > '" + file.string() + "'",
                        "rank 1 is stopped; don't wait", "runs/a"),
            "");
  EXPECT_EQ(content_of(file), "runs/a: rank 1 is stopped; don't wait\n");
}

TEST(AlarmTest, ACommandThatIsNoneIsTold) { EXPECT_NE(start_alarm("if then", "", "runs/a"), ""); }

TEST(RunMonitorTest, TellsOfARankAloneThatIsLongAtOneThing) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / "told";
  Ledger ledger(0, 1);
  ledger.keep_in(ledger_directory(directory.path()) / ledger_name(0));
  ledger.begin_step(9);
  ledger.set_doing("data");
  ledger.set_median_step_seconds(0.01);
  {
    Log log(Log::alone);
    const RunMonitor monitor(ledger, log,
                             {.run_directory = directory.path(),
                              .alarm = "echo \"$POLYMOE_ALARM\" > '" + file.string() + "'",
                              .patience_seconds = 0.1});
    const std::string told = content_of(file);
    EXPECT_NE(told.find("it is in data of step 9"), std::string::npos) << told;
  }
  ledger.forget_file();
}

TEST(RunMonitorTest, TellsOfAWaitBeforeTheFirstStepWithoutTheAlarm) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / "run.log";
  const auto alarms = directory.path() / "alarms";
  Ledger ledger(0, 2), other(1, 2);
  ledger.add_group("start").post("MPI_Comm_dup", 0);
  ledger.keep_in(ledger_directory(directory.path()) / ledger_name(0));
  other.add_group("start");
  other.set_doing("starting");
  other.keep_in(ledger_directory(directory.path()) / ledger_name(1));
  {
    Log log(0, file);
    const RunMonitor monitor(ledger, log,
                             {.run_directory = directory.path(),
                              .alarm = "echo told > '" + alarms.string() + "'",
                              .start_patience_seconds = 0.1});
    const std::string told = content_of(file);
    EXPECT_NE(told.find(") has not come to `MPI_Comm_dup` number 1 of group start"),
              std::string::npos)
        << told;
    EXPECT_NE(told.find("it is in starting, before the first step since"), std::string::npos)
        << told;
  }
  EXPECT_FALSE(std::filesystem::exists(alarms));
  other.forget_file();
  ledger.forget_file();
}

TEST(RunMonitorTest, NamesARankOfItsNodeThatWasKilled) {
  const test::TemporaryDirectory directory;
  const pid_t child = fork();
  if (child == 0) {
    Ledger ledger(1, 2);
    ledger.begin_step(4);
    ledger.set_doing("backward");
    ledger.keep_in(ledger_directory(directory.path()) / ledger_name(1));
    for (;;) pause();
  }
  Ledger ledger(0, 2);
  ledger.keep_in(ledger_directory(directory.path()) / ledger_name(0));
  const auto file = directory.path() / "run.log";
  {
    Log log(0, file);
    const RunMonitor monitor(ledger, log, {.run_directory = directory.path(), .ranks_on_node = 2});
    // It is known before it ends.
    for (int i = 0; i < 1200 && read_ranks(directory.path()).size() < 2; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    std::this_thread::sleep_for(std::chrono::seconds(3));
    kill(child, SIGKILL);
    const std::string told = content_of(file);
    EXPECT_NE(told.find("rank 1 ("), std::string::npos) << told;
    EXPECT_NE(told.find("is gone: its process was killed"), std::string::npos) << told;
    EXPECT_NE(told.find("it was in backward of step 4"), std::string::npos) << told;
  }
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
  std::filesystem::remove_all(ledger_directory(directory.path()));
}

}  // namespace
}  // namespace polymoe
