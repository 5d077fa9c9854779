// SPDX-License-Identifier: Apache-2.0
#include "launch/training/preemption.h"

#include <gtest/gtest.h>
#include <signal.h>

namespace polymoe {
namespace {

TEST(PreemptionTest, SignalIsRememberedAndDoesNotKill) {
  {
    const PreemptionSignal signal;
    EXPECT_FALSE(signal.raised());
    ASSERT_EQ(raise(SIGUSR1), 0);
    EXPECT_TRUE(signal.raised());
    EXPECT_TRUE(signal.raised());
  }
  const PreemptionSignal next;
  EXPECT_FALSE(next.raised());
}

}  // namespace
}  // namespace polymoe
