// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/first_rank.h"

#include <gtest/gtest.h>

#include <array>

#include "runtime/error.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

TEST(FirstRankTest, TextReachesEveryRank) {
  for (const std::string text : {"", "a line\nand another"}) {
    std::array<std::string, 3> seen{"?", "?", "?"};
    run_ranks(3, [&](std::unique_ptr<Communicator> world) {
      const int rank = world->rank();
      seen[static_cast<std::size_t>(rank)] = on_first_rank(*world, [&] {
        EXPECT_EQ(rank, 0);
        return text;
      });
    });
    for (const std::string& own : seen) EXPECT_EQ(own, text);
  }
}

template <class Expected>
void expect_alike(const Expected& error) {
  std::array<std::string, 3> messages;
  run_ranks(3, [&](std::unique_ptr<Communicator> world) {
    messages[static_cast<std::size_t>(world->rank())] = test::message_of<Expected>(
        [&] { on_first_rank(*world, [&]() -> std::string { throw error; }); });
  });
  for (const std::string& message : messages) EXPECT_EQ(message, error.what());
}

TEST(FirstRankTest, ErrorsAreThrownAlike) {
  expect_alike(InvalidArgument("run.dir = x: in use"));
  expect_alike(InputFileError("/data/tokens.bin", "truncated: 3 bytes"));
  expect_alike(OutputFileError("/run", "no space"));
  expect_alike(Error("something else"));
}

}  // namespace
}  // namespace polymoe
