// SPDX-License-Identifier: Apache-2.0
#include "launch/studies/claim.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/system.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::TemporaryDirectory;
using test::write_bytes;

/// The number of a process that is no more.
pid_t ended_process() {
  const pid_t process = fork();
  if (process == 0) _exit(0);
  waitpid(process, nullptr, 0);
  return process;
}

TEST(ClaimTest, IsHeldOnceAndFreeAfterwards) {
  const TemporaryDirectory directory;
  std::string holder;
  {
    const auto claim = Claim::take(directory.path(), holder);
    ASSERT_TRUE(claim);
    EXPECT_FALSE(Claim::take(directory.path(), holder));
    EXPECT_EQ(holder, "process " + std::to_string(getpid()) + " on " + host_name());
  }
  for (int round = 0; round < 5; ++round) EXPECT_TRUE(Claim::take(directory.path(), holder));
  int files = 0;
  for (const auto& entry : fs::directory_iterator(directory.path()))
    files += entry.is_regular_file() ? 1 : 0;
  EXPECT_LE(files, 2) << "old generations are removed";
}

TEST(ClaimTest, ADeadProcessHoldsNothing) {
  const TemporaryDirectory directory;
  write_bytes(directory.path() / "claim.3",
              host_name() + " " + std::to_string(ended_process()) + " 12345\n");
  std::string holder;
  EXPECT_TRUE(Claim::take(directory.path(), holder)) << holder;
  // The same number, but a process that began at another time.
  write_bytes(directory.path() / "claim.9", host_name() + " " + std::to_string(getpid()) + " 1\n");
  EXPECT_TRUE(Claim::take(directory.path(), holder)) << holder;
}

TEST(ClaimTest, AnotherHostHoldsItAsLongAsItShowsLife) {
  const TemporaryDirectory directory;
  const fs::path file = directory.path() / "claim.0";
  write_bytes(file, "elsewhere 1 1\n");
  std::string holder;
  EXPECT_FALSE(Claim::take(directory.path(), holder));
  EXPECT_EQ(holder, "process 1 on elsewhere");
  fs::last_write_time(file, fs::last_write_time(file) - std::chrono::seconds(2000));
  const auto claim = Claim::take(directory.path(), holder);
  ASSERT_TRUE(claim);
  // Its own sign of life is the time of its file.
  const fs::path own = directory.path() / "claim.1";
  fs::last_write_time(own, fs::last_write_time(own) - std::chrono::seconds(2000));
  const auto before = fs::last_write_time(own);
  claim->refresh();
  EXPECT_GT(fs::last_write_time(own), before);
}

TEST(ClaimTest, OfManyWhoTryOneGetsIt) {
  for (int round = 0; round < 20; ++round) {
    const TemporaryDirectory directory;
    write_bytes(directory.path() / "claim.0", "released\n");
    std::atomic<int> got{0}, waiting{8};
    std::vector<std::thread> threads;
    std::vector<std::unique_ptr<Claim>> claims(8);
    for (std::size_t i = 0; i < claims.size(); ++i)
      threads.emplace_back([&, i] {
        --waiting;
        while (waiting > 0) std::this_thread::yield();
        std::string holder;
        if (auto claim = Claim::take(directory.path(), holder)) {
          claims[i] = std::make_unique<Claim>(*std::move(claim));
          ++got;
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(got, 1);
  }
}

}  // namespace
}  // namespace polymoe
