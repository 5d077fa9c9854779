// SPDX-License-Identifier: Apache-2.0
#include "launch/training/same_on_ranks.h"

#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>

#include "runtime/error.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

class SameOnRanksTest : public ::testing::Test {
 protected:
  SameOnRanksTest() {
    for (const char* name : {"a.npy", "b.npy"}) write(name, 200);
    config_.data.train = {{.path = path("a.npy"), .weight = 1.0}};
    config_.run.dir = "run";
  }
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }
  void write(const std::string& name, std::size_t bytes) const {
    std::ofstream(path(name), std::ios::binary) << std::string(bytes, '\1');
  }

  /// What rank 1 says of its own configuration against that of rank 0.
  std::string verdict(const Config& other) const {
    std::string message;
    run_ranks(2, [&](std::unique_ptr<Communicator> world) {
      const Config& mine = world->rank() == 1 ? other : config_;
      try {
        check_same_as_first(facts_of_rank(mine, Device::cpu()), *world);
      } catch (const InvalidArgument& error) {
        EXPECT_EQ(world->rank(), 1);
        message = error.what();
      }
    });
    return message;
  }

  test::TemporaryDirectory directory_;
  Config config_;
};

TEST_F(SameOnRanksTest, EqualRanksPass) {
  Config other = config_;
  other.run.threads = 3;
  EXPECT_EQ(verdict(other), "");
}

TEST_F(SameOnRanksTest, AnotherSettingIsNamedWithBothValues) {
  Config other = config_;
  other.optimizer.lr = 0.01;
  const std::string message = verdict(other);
  EXPECT_NE(message.find("optimizer.lr is '0.01' on rank 1 and '4e-04' on rank 0"),
            std::string::npos)
      << message;
  other = config_;
  other.train.seed = 7;
  EXPECT_NE(verdict(other).find("train.seed is '7' on rank 1"), std::string::npos);
}

TEST_F(SameOnRanksTest, AnotherLengthOfTheSameFileIsNamed) {
  const RankFacts before = facts_of_rank(config_, Device::cpu());
  write("a.npy", 100);
  const RankFacts after = facts_of_rank(config_, Device::cpu());
  std::string message;
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    try {
      check_same_as_first(world->rank() == 1 ? after : before, *world);
    } catch (const InvalidArgument& error) {
      message = error.what();
    }
  });
  EXPECT_NE(message.find("tokens of " + path("a.npy") + " is '50' on rank 1 and '100' on rank 0"),
            std::string::npos)
      << message;
}

TEST_F(SameOnRanksTest, OtherTokensInAFileOfALaterStageAreNamed) {
  config_.data.stages = {{.tokens = 64, .files = {{.path = path("b.npy"), .weight = 1.0}}}};
  const RankFacts before = facts_of_rank(config_, Device::cpu());
  std::ofstream(path("b.npy"), std::ios::binary) << std::string(200, '\2');
  const RankFacts after = facts_of_rank(config_, Device::cpu());
  std::string message;
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    try {
      check_same_as_first(world->rank() == 1 ? after : before, *world);
    } catch (const InvalidArgument& error) {
      message = error.what();
    }
  });
  EXPECT_NE(message.find("content of " + path("b.npy")), std::string::npos) << message;
}

}  // namespace
}  // namespace polymoe
