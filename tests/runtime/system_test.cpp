// SPDX-License-Identifier: Apache-2.0
#include "runtime/system.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include "runtime/arena.h"
#include "runtime/log.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

TEST(System, ReadsTheQuotaOfAControlGroup) {
  EXPECT_EQ(parse_cpu_max("150000 100000"), 1.5);
  EXPECT_EQ(parse_cpu_max("400000 100000"), 4.0);
  EXPECT_EQ(parse_cpu_max("max 100000"), std::nullopt);
  EXPECT_EQ(parse_cpu_max(""), std::nullopt);
  EXPECT_EQ(parse_cpu_max("100000 0"), std::nullopt);
}

TEST(System, FollowsTheAffinityMask) {
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_GE(usable_cores(), 1);
  EXPECT_LE(usable_cores(), CPU_COUNT(&before));
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(usable_cores(), 1);
  ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
}

TEST(System, PeakMemoryGrowsWithUse) {
  const std::int64_t before = peak_memory_bytes();
  constexpr std::size_t more = std::size_t{64} << 20;
  std::vector<char> memory(static_cast<std::size_t>(before) + more, 1);
  EXPECT_GE(peak_memory_bytes(), static_cast<std::int64_t>(more));
  EXPECT_GT(peak_memory_bytes(), before);
  EXPECT_LT(peak_memory_bytes(), usable_memory_bytes());
  EXPECT_EQ(memory.back(), 1);
}

TEST(System, ControlGroupsOfBothVersionsAndTheirParentsLimit) {
  const test::TemporaryDirectory directory;
  const auto write = [&](const std::string& file, const std::string& text) {
    std::filesystem::create_directories((directory.path() / file).parent_path());
    std::ofstream(directory.path() / file) << text << "\n";
  };
  const auto limits = [&](const std::string& groups) {
    return group_limits(directory.path(), groups);
  };
  EXPECT_EQ(limits("0::/\n").cores, std::nullopt);
  EXPECT_EQ(limits("0::/\n").memory_bytes, std::nullopt);
  write("job/cpu.max", "300000 100000");
  write("job/memory.max", "max");
  write("job/step/task/memory.max", "5000");
  EXPECT_EQ(limits("0::/job/step/task\n").cores, 3.0);
  EXPECT_EQ(limits("0::/job/step/task\n").memory_bytes, 5000);
  EXPECT_EQ(limits("0::/job/step\n").memory_bytes, std::nullopt);
  EXPECT_EQ(limits("0::/job/step\n").cores, 3.0);
  write("cpu/slurm/uid/cpu.cfs_quota_us", "250000");
  write("cpu/slurm/uid/cpu.cfs_period_us", "100000");
  write("memory/slurm/memory.limit_in_bytes", "7000");
  write("memory/memory.limit_in_bytes", "9223372036854771712");
  const std::string version_1 = "4:memory:/slurm/uid/job\n3:cpu,cpuacct:/slurm/uid/job\n";
  EXPECT_EQ(limits(version_1).cores, 2.5);
  EXPECT_EQ(limits(version_1).memory_bytes, 7000);
  // A container: its own group is the root that it sees.
  write("memory/memory.limit_in_bytes", "3000");
  EXPECT_EQ(limits("4:memory:/docker/unknown\n").memory_bytes, 3000);
}

TEST(System, AddressSpaceThatIsLeftFollowsItsLimit) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  EXPECT_EQ(address_space_left().has_value(), before.rlim_cur != RLIM_INFINITY);
  rlimit limit = before;
  limit.rlim_cur = rlim_t{64} << 30;
  ASSERT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
  const auto left = address_space_left();
  ASSERT_TRUE(left);
  EXPECT_GT(*left, 0);
  EXPECT_LT(*left, std::int64_t{64} << 30);
  // The step's arena leaves the rest of the program half of it.
  {
    const Arena arena({.device = Device::cpu(), .capacity = std::size_t{1} << 40});
    EXPECT_LE(arena.capacity(), static_cast<std::size_t>(*left) / 2 + (std::size_t{8} << 20));
  }
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
}

TEST(System, NamesTheMachine) {
  EXPECT_FALSE(host_name().empty());
  EXPECT_FALSE(processor_name().empty());
}

TEST(Log, OnlyRankZeroInforms) {
  testing::internal::CaptureStderr();
  Log first(0), second(1);
  first.info("from the first");
  second.info("from the second");
  second.warning("100 {} %v");
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find(" rank 0: from the first\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("from the second"), std::string::npos) << text;
  EXPECT_NE(text.find(" rank 1: warning: 100 {} %v\n"), std::string::npos) << text;
}

TEST(Log, AFileGetsTheSameWithDates) {
  const test::TemporaryDirectory directory;
  const auto file = directory.path() / "run.log";
  testing::internal::CaptureStderr();
  Log first(0, file), second(1, file);
  first.info("from the first");
  second.info("from the second");
  second.warning("of the second");
  Log(0, directory.path() / "missing" / "run.log").info("no directory");
  Log(0, directory.path()).info("no file");
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_EQ(told.find("missing"), std::string::npos) << told;
  EXPECT_NE(told.find("going on without it"), std::string::npos) << told;
  const std::string date = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z ";
  const std::regex expected(date + "rank 0: from the first\n" + date +
                            "rank 1: warning: of the second\n");
  EXPECT_TRUE(std::regex_match(test::read_bytes(file), expected)) << test::read_bytes(file);
}

}  // namespace
}  // namespace polymoe
