// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/agreement.h"

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <optional>
#include <stdexcept>

#include "runtime/error.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

constexpr int ranks = 3;

/// What each rank throws; none may be left behind by it.
template <class Expected>
std::array<std::string, ranks> messages_of(const std::function<void(Communicator&)>& body) {
  std::array<std::string, ranks> messages;
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    messages[static_cast<std::size_t>(world->rank())] =
        test::message_of<Expected>([&] { body(*world); });
    world->barrier();
  });
  return messages;
}

TEST(AgreementTest, TextOfTheFirstRankReachesEveryRank) {
  for (const std::string text : {"", "a line\nand another"}) {
    std::array<std::string, ranks> seen{"?", "?", "?"};
    run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
      const int rank = world->rank();
      seen[static_cast<std::size_t>(rank)] = on_first_rank(*world, [&] {
        EXPECT_EQ(rank, 0);
        return text;
      });
    });
    for (const std::string& own : seen) EXPECT_EQ(own, text);
  }
}

TEST(AgreementTest, AnEmptyTextIsNotNone) {
  const std::optional<std::string> lines[] = {"", "a line", std::nullopt};
  for (const std::optional<std::string>& line : lines) {
    std::array<std::optional<std::string>, ranks> seen{"?", "?", "?"};
    run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
      seen[static_cast<std::size_t>(world->rank())] = on_first_rank(*world, [&] { return line; });
    });
    for (const std::optional<std::string>& own : seen) EXPECT_EQ(own, line);
  }
}

TEST(AgreementTest, ABodyMayReturnNothing) {
  int calls = 0;
  run_ranks(ranks,
            [&](std::unique_ptr<Communicator> world) { on_first_rank(*world, [&] { ++calls; }); });
  EXPECT_EQ(calls, 1);
}

template <class Expected>
void expect_alike(const Expected& error) {
  for (const std::string& message : messages_of<Expected>([&](Communicator& world) {
         on_first_rank(world, [&]() -> std::string { throw error; });
       }))
    EXPECT_EQ(message, error.what());
  for (int failing = 0; failing < ranks; ++failing) {
    for (const std::string& message : messages_of<Expected>([&](Communicator& world) {
           on_every_rank(world, [&] {
             if (world.rank() == failing) throw error;
           });
         }))
      EXPECT_EQ(message, error.what());
  }
}

TEST(AgreementTest, EveryKindOfErrorIsThrownAlike) {
  expect_alike(InvalidArgument("run.dir = x: in use"));
  expect_alike(InputFileError("/data/tokens.bin", "truncated: 3 bytes"));
  expect_alike(OutputFileError("/run", "no space"));
  expect_alike(DeviceError("out of memory"));
  expect_alike(CommunicationError("rank 7 is lost"));
  expect_alike(NotFiniteError("the loss is nan"));
  expect_alike(Error("something else"));
  expect_alike(Error(""));
}

TEST(AgreementTest, ACauseKeepsWhatLooksLikeAPath) {
  for (const std::string& message : messages_of<InputFileError>([](Communicator& world) {
         on_every_rank(world, [&]() {
           if (world.rank() == 1) throw InputFileError("a: b", "c: d");
         });
       }))
    EXPECT_EQ(message, "a: b: c: d");
  run_ranks(ranks, [](std::unique_ptr<Communicator> world) {
    try {
      on_first_rank(*world, [] { throw OutputFileError("a: b", "c: d"); });
      ADD_FAILURE() << "nothing thrown";
    } catch (const OutputFileError& error) {
      EXPECT_EQ(error.path(), "a: b");
      EXPECT_EQ(error.cause(), "c: d");
    }
  });
}

TEST(AgreementTest, OfSeveralErrorsTheLowestRankIsHeard) {
  for (const std::string& message : messages_of<InvalidArgument>([](Communicator& world) {
         on_every_rank(world, [&] {
           if (world.rank() == 1) throw InvalidArgument("of rank 1");
           if (world.rank() == 2) throw InputFileError("file", "of rank 2");
         });
       }))
    EXPECT_EQ(message, "of rank 1");
}

TEST(AgreementTest, WhatIsNoErrorOfOursIsUnforeseen) {
  run_ranks(ranks, [](std::unique_ptr<Communicator> world) {
    const auto failure = failure_of([&] {
      on_every_rank(*world, [&] {
        if (world->rank() == 2) throw std::runtime_error("foreign");
      });
    });
    ASSERT_TRUE(failure);
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& error) {
      EXPECT_EQ(kind_of(error), ErrorKind::unforeseen);
      EXPECT_STREQ(error.what(), "foreign");
    }
  });
}

TEST(AgreementTest, NumbersAreComparedOverAllRanks) {
  run_ranks(ranks, [](std::unique_ptr<Communicator> world) {
    EXPECT_TRUE(same_on_all_ranks(INT64_MIN, *world));
    EXPECT_TRUE(same_on_all_ranks(7, *world));
    EXPECT_FALSE(same_on_all_ranks(world->rank() == 1 ? 8 : 7, *world));
    EXPECT_FALSE(same_on_all_ranks(world->rank() == 2 ? INT64_MIN : INT64_MAX, *world));
    EXPECT_EQ(least_of_ranks(world->rank() == 1 ? -3 : world->rank(), *world), -3);
    EXPECT_EQ(least_of_ranks(INT64_MAX - world->rank(), *world), INT64_MAX - ranks + 1);
    EXPECT_EQ(least_of_ranks(world->rank() == 2 ? INT64_MIN : 0, *world), INT64_MIN);
  });
}

TEST(AgreementTest, TextsAreGatheredByRank) {
  run_ranks(ranks, [](std::unique_ptr<Communicator> world) {
    const std::string own = world->rank() == 1 ? "" : std::string(1, 'a' + world->rank());
    const std::vector<std::string> texts = gather_text(own, *world);
    const std::vector<std::string> all{"a", "", "c"};
    EXPECT_EQ(texts, world->rank() == 0 ? all : std::vector<std::string>(ranks));
    EXPECT_EQ(broadcast_text(own, 2, *world), "c");
  });
}

}  // namespace
}  // namespace polymoe
