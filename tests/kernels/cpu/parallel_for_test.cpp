// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/parallel_for.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "runtime/error.h"

namespace polymoe {
namespace {

TEST(ParallelFor, RunsEveryItemOnce) {
  for (const std::int64_t count : {0, 1, 2, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
    cpu::parallel_for(count, [&](std::int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
    EXPECT_TRUE(std::all_of(runs.begin(), runs.end(), [](const auto& run) { return run == 1; }));
  }
}

TEST(ParallelFor, AnErrorReachesTheCallerWhenAllItemsAreDone) {
  std::atomic<int> done = 0;
  try {
    cpu::parallel_for(100, [&](std::int64_t i) {
      ++done;
      if (i == 37) throw DeviceError("item 37");
    });
    FAIL() << "the error was lost";
  } catch (const DeviceError& error) {
    EXPECT_STREQ(error.what(), "item 37");
  }
  EXPECT_EQ(done, 100);
}

}  // namespace
}  // namespace polymoe
