// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/ledger.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

TEST(LedgerTest, TellsTheLastOperationsOfEachGroup) {
  Ledger ledger(3, 8);
  Ledger::Group world = ledger.add_group("world"), half = ledger.add_group("world/0");
  for (int i = 1; i <= 40; ++i) {
    const std::int64_t sequence = world.post("all_reduce", static_cast<std::size_t>(i));
    EXPECT_EQ(sequence, i);
    world.start(sequence);
    if (i < 40) world.finish(sequence);
  }
  half.post("all_to_all", 12);
  ledger.begin_step(7);
  ledger.set_doing("forward");
  const LedgerView view = ledger.view();
  EXPECT_EQ(view.rank, 3);
  EXPECT_EQ(view.ranks, 8);
  EXPECT_EQ(view.process, getpid());
  EXPECT_EQ(view.step, 7);
  EXPECT_EQ(view.place.doing, "forward");
  ASSERT_EQ(view.groups.size(), 2U);
  EXPECT_EQ(view.groups[0].posted, 40);
  ASSERT_EQ(view.groups[0].operations.size(), 32U);
  EXPECT_EQ(view.groups[0].operations.front().sequence, 9);
  const LedgerOperation& last = view.groups[0].operations.back();
  EXPECT_EQ(last.sequence, 40);
  EXPECT_EQ(last.bytes, 40);
  EXPECT_GT(last.posted, 0.0);
  EXPECT_GE(last.started, last.posted);
  EXPECT_EQ(last.done, 0.0);
  EXPECT_GT(view.groups[0].operations.front().done, 0.0);
  EXPECT_EQ(view.groups[1].name, "world/0");
  EXPECT_EQ(view.groups[1].operations.at(0).started, 0.0);
}

TEST(LedgerTest, ARecorderIsToldOfWhatIsDone) {
  Ledger ledger(0, 2);
  ledger.add_group("world");
  Ledger::Group group = ledger.add_group("world/0");
  std::vector<std::string> told;
  group.finish(group.post("before", 1));
  ledger.set_recorder([&](int number, const std::string& name, const LedgerOperation& operation) {
    EXPECT_EQ(number, 1);
    EXPECT_EQ(name, "world/0");
    EXPECT_GE(operation.done, operation.started);
    EXPECT_GE(operation.started, operation.posted);
    told.push_back(operation.name + std::to_string(operation.sequence));
  });
  const std::int64_t sequence = group.post("barrier", 1);
  group.start(sequence);
  EXPECT_TRUE(told.empty());
  group.finish(sequence);
  ledger.set_recorder({});
  group.finish(group.post("behind", 1));
  EXPECT_EQ(told, std::vector<std::string>{"barrier2"});
}

TEST(LedgerTest, AnOperationIsOfTheStepAndPhaseInWhichItWasPosted) {
  Ledger ledger(0, 2);
  Ledger::Group world = ledger.add_group("world");
  ledger.begin_step(3);
  ledger.set_doing("backward");
  world.post("reduce_scatter", 8);
  ledger.begin_step(4);
  ledger.set_doing("validating, forward");
  world.post("all_reduce", 8);
  const LedgerView view = ledger.view();
  const auto& operations = view.groups.at(0).operations;
  ASSERT_EQ(operations.size(), 2U);
  EXPECT_EQ(operations[0].step, 3);
  EXPECT_EQ(operations[0].place.text(), "backward");
  EXPECT_EQ(operations[1].step, 4);
  EXPECT_EQ(operations[1].place.text(), "validating, forward");
}

TEST(LedgerTest, AnOperationIsOfTheLayerInWhichItWasPosted) {
  Ledger ledger(0, 2);
  Ledger::Group world = ledger.add_group("world");
  ledger.set_doing("exchange");
  ledger.set_layer(7, true, "dispatch");
  world.post("all_to_all", 8);
  ledger.set_doing("validating, exchange_wait");
  ledger.set_layer(0, false, "combine");
  world.post("all_to_all", 8);
  ledger.set_doing("gradient_reduction");
  ledger.set_layer(2, true, "");
  world.post("reduce_scatter", 8);
  ledger.set_layer(-1, false, "");
  world.post("all_reduce", 8);
  const LedgerView view = ledger.view();
  std::vector<std::string> places;
  for (const LedgerOperation& one : view.groups.at(0).operations)
    places.push_back(one.place.text());
  EXPECT_EQ(places, (std::vector<std::string>{
                        "dispatch of layer 7, backward pass", "combine of layer 0, validating",
                        "gradient_reduction of layer 2, backward pass", "gradient_reduction"}));
  EXPECT_EQ(ledger.view().place.text(), "gradient_reduction");
  ledger.set_doing("forward");
  ledger.set_layer(11, false, "");
  EXPECT_EQ(ledger.view().place.text(), "forward of layer 11");
}

TEST(LedgerTest, OfAnOperationThatNobodySawBeginTheWaitIsPartOfIt) {
  Ledger ledger(0, 2);
  Ledger::Group group = ledger.add_group("world (NCCL)");
  group.finish(group.post("all_reduce", 8));
  const LedgerView view = ledger.view();
  EXPECT_EQ(view.groups.at(0).operations.at(0).started, view.groups.at(0).operations.at(0).posted);
}

TEST(LedgerTest, AnOperationThatIsNoLongerKeptIsNotNoted) {
  Ledger ledger(0, 2);
  Ledger::Group world = ledger.add_group("world");
  for (int i = 0; i < 33; ++i) world.post("all_reduce", 8);
  world.finish(1);  // its place is number 33's by now
  EXPECT_EQ(ledger.view().groups.at(0).operations.back().done, 0.0);
}

TEST(LedgerTest, OutlivesAProcessThatIsKilled) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / "sub" / ledger_name(2);
  const pid_t child = fork();
  if (child == 0) {
    Ledger ledger(2, 4);
    Ledger::Group group = ledger.add_group("world");
    group.post("barrier", 0);
    ledger.keep_in(file);
    group.start(1);
    group.post("broadcast", 5);
    ledger.set_doing("saving");
    raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  const LedgerView view = read_ledger(file);
  EXPECT_EQ(view.process, child);
  EXPECT_EQ(view.place.doing, "saving");
  ASSERT_EQ(view.groups.at(0).operations.size(), 2U);
  EXPECT_GT(view.groups[0].operations[0].started, 0.0);
  EXPECT_EQ(view.groups[0].operations[1].name, "broadcast");
}

TEST(LedgerTest, OtherFilesAreRefusedAndAGoodEndLeavesNone) {
  const test::TemporaryDirectory directory;
  EXPECT_THROW(read_ledger(directory.path() / "none"), InputFileError);
  std::ofstream(directory.path() / "short") << "pledger1";
  EXPECT_THROW(read_ledger(directory.path() / "short"), InputFileError);
  Ledger ledger(0, 1);
  EXPECT_THROW(ledger.keep_in("/proc/none/rank-00000"), OutputFileError);
  ledger.keep_in(directory.path() / "sub" / ledger_name(0));
  EXPECT_NO_THROW(read_ledger(directory.path() / "sub" / ledger_name(0)));
  ledger.forget_file();
  EXPECT_FALSE(std::filesystem::exists(directory.path() / "sub"));
}

TEST(LedgerTest, MoreGroupsThanItHasRoomForAreForgotten) {
  Ledger ledger(0, 1);
  for (int i = 0; i < 40; ++i) {
    Ledger::Group group = ledger.add_group("group");
    const std::int64_t sequence = group.post("barrier", 0);
    group.start(sequence);
    group.finish(sequence);
  }
  EXPECT_EQ(ledger.view().groups.size(), 13U);
}

TEST(LedgerTest, AFileIsHeldForAsLongAsItsProcessLives) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / ledger_name(1);
  EXPECT_FALSE(ledger_is_held(file));
  const pid_t child = fork();
  if (child == 0) {
    Ledger ledger(1, 2);
    ledger.keep_in(file);
    raise(SIGSTOP);
    for (;;) pause();
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, WUNTRACED), child);
  ASSERT_TRUE(WIFSTOPPED(status));
  EXPECT_TRUE(read_ledger(file).locked);
  EXPECT_TRUE(ledger_is_held(file));
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_FALSE(ledger_is_held(file));
}

TEST(LedgerTest, WhereOnlyAPartHasRoomItSaysSo) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / ledger_name(0);
  const pid_t child = fork();
  if (child == 0) {
    const rlimit small{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &small);
    Ledger ledger(0, 1);
    try {
      ledger.keep_in(file);
    } catch (const OutputFileError& error) {
      _exit(std::string(error.what()).find("No space left") == std::string::npos ? 2 : 0);
    }
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST(LedgerTest, OneThatWasReplacedIsKeptAnewAndForgetsNoOther) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / "sub" / ledger_name(0);
  Ledger first(0, 2), second(0, 3);
  first.keep_in(file);
  EXPECT_TRUE(first.file_in_place());
  second.keep_in(file);
  EXPECT_FALSE(first.file_in_place());
  first.forget_file();
  EXPECT_EQ(read_ledger(file).ranks, 3);
  first.keep_in(file);
  first.set_doing("preparing");
  EXPECT_EQ(read_ledger(file).place.doing, "preparing");
  EXPECT_EQ(read_ledger(file).ranks, 2);
}

TEST(LedgerTest, ItsDirectoryIsTheSameBeforeAndAfterTheRunDirectoryIsMade) {
  const test::TemporaryDirectory directory;
  const auto run = directory.path() / "runs" / "a";
  const auto before = ledger_directory(run);
  EXPECT_EQ(ledger_directory(run / ""), before);
  const auto relative = std::filesystem::relative(run);
  EXPECT_EQ(ledger_directory(relative), before);
  std::filesystem::create_directories(run);
  EXPECT_EQ(ledger_directory(run), before);
  EXPECT_EQ(ledger_directory(run / ""), before);
  EXPECT_EQ(ledger_directory(relative), before);
}

}  // namespace
}  // namespace polymoe
