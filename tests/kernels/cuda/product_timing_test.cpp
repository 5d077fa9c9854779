// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/libraries/product_timing.h"

#include <gtest/gtest.h>

#include <chrono>

namespace polymoe::cuda {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;
using Use = ProductTiming::Use;

constexpr ProductTiming::Clock::time_point start{};

TEST(ProductTiming, TimesProductsAloneAtOnceAndThoseOfGroupsWithinTheAllowance) {
  ProductTiming timing;
  EXPECT_TRUE(timing.allows(Use::side_by_side, start));
  timing.add(seconds(2));
  EXPECT_TRUE(timing.allows(Use::alone, start));
  EXPECT_FALSE(timing.allows(Use::side_by_side, start + seconds(9)));
  EXPECT_TRUE(timing.allows(Use::side_by_side, start + seconds(11)));
  EXPECT_FALSE(timing.allows(Use::rare, start + minutes(9)));
}

TEST(ProductTiming, TimesNothingInTheFirstSecondsOfARunThatTimesLate) {
  ProductTiming timing;
  timing.begin_late();
  for (const Use use : {Use::alone, Use::side_by_side}) {
    EXPECT_FALSE(timing.allows(use, start));
    EXPECT_FALSE(timing.allows(use, start + seconds(5)));
    EXPECT_TRUE(timing.allows(use, start + seconds(6)));
  }
  timing.add(seconds(1));
  EXPECT_FALSE(timing.allows(Use::alone, start + seconds(24)));
  EXPECT_TRUE(timing.allows(Use::alone, start + seconds(26)));
}

TEST(ProductTiming, TimesNothingWhileItIsForbiddenHoweverOldTheRunIs) {
  for (const bool late : {false, true}) {
    ProductTiming timing;
    if (late) timing.begin_late();
    timing.allows(Use::side_by_side, start);
    timing.forbid();
    timing.forbid();
    for (const Use use : {Use::alone, Use::side_by_side, Use::rare})
      EXPECT_FALSE(timing.allows(use, start + minutes(60)));
    timing.permit();
    EXPECT_FALSE(timing.allows(Use::alone, start + minutes(60)));
    timing.permit();
    EXPECT_TRUE(timing.allows(Use::alone, start + minutes(60)));
    EXPECT_TRUE(timing.allows(Use::side_by_side, start + minutes(60)));
  }
}

TEST(ProductTiming, CountsARunFromTheFirstProductThatMayBeTimed) {
  ProductTiming timing;
  timing.begin_late();
  timing.forbid();
  EXPECT_FALSE(timing.allows(Use::alone, start));
  timing.permit();
  EXPECT_FALSE(timing.allows(Use::alone, start + minutes(60)));
  EXPECT_TRUE(timing.allows(Use::alone, start + minutes(60) + seconds(6)));
}

}  // namespace
}  // namespace polymoe::cuda
