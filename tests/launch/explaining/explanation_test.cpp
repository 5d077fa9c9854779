// SPDX-License-Identifier: Apache-2.0
#include "launch/explaining/explanation.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

constexpr double now = 1000.0;

/// Four ranks that have posted 1234 operations of the world, all but the last one done.
std::vector<ExplainedRank> waiting_ranks() {
  std::vector<ExplainedRank> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    ExplainedRank one;
    one.ledger = {.rank = rank,
                  .ranks = 4,
                  .process = 100 + rank,
                  .host = "n1",
                  .device = "cpu",
                  .step = 12,
                  .place = {.doing = "exchange"},
                  .there_since = now - 31.0,
                  .groups = {{.name = "world",
                              .posted = 1234,
                              .operations = {{.sequence = 1233,
                                              .name = "all_reduce",
                                              .bytes = 8,
                                              .step = 12,
                                              .place = {.doing = "optimizer"},
                                              .posted = now - 32.0,
                                              .started = now - 32.0,
                                              .done = now - 31.5},
                                             {.sequence = 1234,
                                              .name = "all_to_all",
                                              .bytes = 12600000,
                                              .step = 12,
                                              .place = {.doing = "exchange"},
                                              .posted = now - 31.0,
                                              .started = now - 31.0}}}}};
    one.state = ProcessState::sleeping;
    ranks.push_back(one);
  }
  return ranks;
}

void expect_in(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << part << " | " << text;
}

TEST(ExplanationTest, NamesARankThatHasNotComeToTheOperation) {
  auto ranks = waiting_ranks();
  LedgerView& late = ranks[3].ledger;
  late.groups[0].posted = 1233;
  late.groups[0].operations.pop_back();
  late.place.doing = "forward";
  ranks[3].state = ProcessState::running;
  expect_in(
      explain(ranks, now),
      {"rank 3 (n1, cpu, process 103) has not come to `all_to_all` number 1234 of group world "
       "(exchange of step 12), "
       "12.6 MB; it is in forward of step 12 since 31 s; its process is computing; class of cause: "
       "the "
       "host's own work",
       "ranks 0-2 wait in it since 31 s"});
  for (ExplainedRank& rank : ranks) {
    LedgerPlace& place = rank.ledger.groups[0].operations.back().place;
    place.layer = 7;
    place.transfer = "dispatch";
  }
  late.place = {.doing = "backward", .layer = 6, .backward = true};
  expect_in(explain(ranks, now), {"`all_to_all` number 1234 of group world (dispatch of layer 7, "
                                  "forward pass of step 12), 12.6 MB; it is in backward of layer 6 "
                                  "of step 12 since 31 s"});
  expect_in(rank_table(ranks, now), {"backward of layer 6, since 31 s"});
  ranks[3].state = ProcessState::stopped;
  expect_in(explain(ranks, now), {"stopped (SIGSTOP", "class of cause: a stopped process"});
  ranks[3].state = ProcessState::in_system;
  expect_in(explain(ranks, now), {"class of cause: a disk or a file system"});
}

TEST(ExplanationTest, NamesARankThatWasStoppedOrKilledInsideTheOperation) {
  auto ranks = waiting_ranks();
  ranks[1].state = ProcessState::gone;
  expect_in(explain(ranks, now),
            {"rank 1 (n1, cpu, process 101) does not go on in `all_to_all`", "its process is gone",
             "class of cause: a lost rank", "ranks 0, 2, 3 wait in it"});
}

TEST(ExplanationTest, SaysInWhatTheRanksWaitForWhomTheOperationHasEnded) {
  auto ranks = waiting_ranks();
  for (ExplainedRank& rank : ranks) {
    if (rank.ledger.rank == 1) continue;
    LedgerView::Group& world = rank.ledger.groups[0];
    world.operations.back().done = now - 30.0;
    world.posted = 1235;
    world.operations.push_back({.sequence = 1235,
                                .name = "reduce_scatter",
                                .bytes = 33000,
                                .step = 12,
                                .place = {.doing = "gradient_reduction"},
                                .posted = now - 29.0,
                                .started = now - 29.0});
  }
  ranks[1].state = ProcessState::stopped;
  ranks[3].state = ProcessState::gone;
  const std::string next =
      "`reduce_scatter` number 1235 of group world (gradient_reduction of step 12), 33.0 kB since "
      "29 s";
  expect_in(
      explain(ranks, now),
      {"rank 1 (n1, cpu, process 101) does not go on in `all_to_all` number 1234",
       "rank 0 waits in " + next, "rank 2 waits in " + next, "rank 3 is past it, in " + next});
}

TEST(ExplanationTest, NamesARankWithAnotherOperationOrSize) {
  auto ranks = waiting_ranks();
  ranks[2].ledger.groups[0].operations.back().name = "broadcast";
  ranks[2].ledger.groups[0].operations.back().bytes = 4;
  expect_in(explain(ranks, now),
            {"rank 2 (n1, cpu, process 102) has posted `broadcast` of 4 bytes where others have "
             "`all_to_all` number 1234",
             "class of cause: ranks that disagree"});
  // Rows differ from rank to rank; sums do not.
  ranks = waiting_ranks();
  ranks[2].ledger.groups[0].operations.back().bytes = 4;
  expect_in(explain(ranks, now), {"All ranks are in `all_to_all`", "the network"});
  for (auto& rank : ranks) rank.ledger.groups[0].operations.back().name = "all_reduce";
  expect_in(explain(ranks, now), {"rank 2", "ranks that disagree"});
}

TEST(ExplanationTest, SaysWhatItCannotSee) {
  auto ranks = waiting_ranks();
  ranks.pop_back();
  expect_in(explain(ranks, now), {"No ledger of rank 3 is here", "ranks 0-2 wait in it"});
  expect_in(explain({}, now), {"no ledger"});
  ranks = waiting_ranks();
  for (auto& rank : ranks) rank.ledger.groups[0].operations.back().done = now;
  expect_in(explain(ranks, now), {"nobody waits"});
}

TEST(ExplanationTest, ReadsTheLedgersOfARunAndWhatItsProcessesDo) {
  const test::TemporaryDirectory directory;
  Ledger here(1, 3), copied(0, 3), before(4, 5);
  here.keep_in(ledger_directory(directory.path()) / ledger_name(1));
  copied.keep_in(directory.path() / "ledger" / ledger_name(0));
  before.keep_in(directory.path() / "ledger" / ledger_name(4));
  here.set_doing("data");
  const auto ranks = read_ranks(directory.path());
  ASSERT_EQ(ranks.size(), 2U);
  EXPECT_EQ(ranks[0].ledger.rank, 0);
  EXPECT_EQ(ranks[1].ledger.process, getpid());
  EXPECT_EQ(ranks[1].ledger.place.doing, "data");
  EXPECT_NE(ranks[1].state, ProcessState::elsewhere);
  EXPECT_NE(ranks[1].state, ProcessState::gone);
  expect_in(rank_table(ranks, now), {"rank", std::to_string(getpid()), "data"});
  expect_in(thread_lines(getpid()), {"thread " + std::to_string(getpid()), "state R"});
  here.forget_file();
}

/// A ledger in that file whose process is gone.
void leave_ledger(int rank, int ranks, const std::filesystem::path& file) {
  const pid_t child = fork();
  if (child == 0) {
    Ledger ledger(rank, ranks);
    ledger.set_doing("backward");
    ledger.keep_in(file);
    _exit(0);
  }
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

TEST(ExplanationTest, ARankOfARunBeforeIsNoneOfThisOne) {
  const test::TemporaryDirectory directory;
  const auto ledgers = ledger_directory(directory.path());
  leave_ledger(0, 3, ledgers / ledger_name(0));
  leave_ledger(1, 3, ledgers / ledger_name(1));
  Ledger starting(2, 3);
  starting.keep_in(ledgers / ledger_name(2));
  auto ranks = read_ranks(directory.path());
  ASSERT_EQ(ranks.size(), 1U);
  EXPECT_EQ(ranks[0].ledger.rank, 2);
  leave_ledger(1, 3, ledgers / ledger_name(1));  // it came, and was killed
  ranks = read_ranks(directory.path());
  ASSERT_EQ(ranks.size(), 2U);
  EXPECT_EQ(ranks[0].ledger.rank, 1);
  EXPECT_EQ(ranks[0].state, ProcessState::gone);
  std::filesystem::remove_all(ledgers);
}

TEST(ExplanationTest, OfEndedRunsTheNewestStay) {
  const test::TemporaryDirectory directory;
  std::vector<std::filesystem::path> all;
  for (const char* name : {"oldest", "alive", "middle", "newest", "damaged", "empty"})
    all.push_back(directory.path() / name);
  for (const auto& one : all) std::filesystem::create_directory(one);
  Ledger alive(0, 2);
  alive.keep_in(all[1] / ledger_name(0));
  leave_ledger(1, 2, all[1] / ledger_name(1));
  for (const std::size_t i : {0, 2, 3}) leave_ledger(0, 2, all[i] / ledger_name(0));
  std::ofstream(all[4] / ledger_name(0)) << "none";
  remove_old_ledgers(all, 2);
  EXPECT_FALSE(std::filesystem::exists(all[0]));
  for (const std::size_t i : {1, 2, 3, 4, 5})
    EXPECT_TRUE(std::filesystem::exists(all[i])) << all[i];
  std::ofstream(all[2] / "notes") << "another's";
  remove_old_ledgers(all, 0);
  EXPECT_TRUE(std::filesystem::exists(all[2] / "notes"));
  EXPECT_FALSE(std::filesystem::exists(all[2] / ledger_name(0)));
  EXPECT_FALSE(std::filesystem::exists(all[3]));
  EXPECT_TRUE(std::filesystem::exists(all[1] / ledger_name(1)));
}

}  // namespace
}  // namespace polymoe
