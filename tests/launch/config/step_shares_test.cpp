// SPDX-License-Identifier: Apache-2.0
#include "launch/config/step_shares.h"

#include <gtest/gtest.h>

namespace polymoe {
namespace {

Config batch(std::int64_t global, std::int64_t micro, std::int64_t limit = 0) {
  Config config;
  config.model.context = 256;
  config.train.global_batch = global;
  config.train.micro_batch = micro;
  config.train.micro_batch_limit = limit;
  return config;
}

TEST(StepSharesTest, AGivenMicroBatchIsWhatEveryPassHas) {
  const StepShares shares = shares_of(batch(16, 2), 4);
  EXPECT_EQ(shares.passes, 2);
  EXPECT_TRUE(shares.even());
  EXPECT_EQ(shares.of(0, 3).first, 6);
  EXPECT_EQ(shares.of(1, 0).first, 8);
  EXPECT_EQ(shares.of(1, 3).count, 2);
}

TEST(StepSharesTest, AnAutomaticOneServesAnyNumberOfRanks) {
  for (const int ranks : {1, 2, 3, 4, 5, 7, 8, 16}) {
    for (const std::int64_t limit : {1, 2, 3, 6, 100}) {
      const StepShares shares = shares_of(batch(16, 0, limit), ranks);
      std::int64_t next = 0;
      for (std::int64_t pass = 0; pass < shares.passes; ++pass) {
        for (int rank = 0; rank < ranks; ++rank) {
          const SequenceRange share = shares.of(pass, rank);
          EXPECT_EQ(share.first, next) << ranks << " ranks, limit " << limit;
          EXPECT_LE(share.count, std::min(limit, shares.largest()));
          EXPECT_GE(share.count, shares.largest() - 1);
          next += share.count;
        }
      }
      EXPECT_EQ(next, 16) << ranks << " ranks, limit " << limit;
    }
  }
}

TEST(StepSharesTest, MakesFewPassesAndPrefersEvenOnes) {
  EXPECT_EQ(shares_of(batch(16, 0), 1).largest(), 16);  // 4096 tokens
  EXPECT_EQ(shares_of(batch(64, 0), 1).largest(), 16);
  EXPECT_EQ(shares_of(batch(16, 0, 6), 1).passes, 4);  // of 4, rather than 3 of 5 or 6
  EXPECT_EQ(shares_of(batch(17, 0, 6), 1).passes, 3);  // a prime number
  EXPECT_EQ(shares_of(batch(16, 0), 3).largest(), 6);
}

}  // namespace
}  // namespace polymoe
