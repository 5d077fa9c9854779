// SPDX-License-Identifier: Apache-2.0
#include "runtime/timeline.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "runtime/copy.h"
#include "support/devices.h"

namespace polymoe {
namespace {

/// Lets the clock advance by at least a millisecond and returns by how much it did.
double pass_time() {
  const auto begin = Timeline::Clock::now();
  auto now = begin;
  while (now - begin < std::chrono::milliseconds(1)) now = Timeline::Clock::now();
  return std::chrono::duration<double>(now - begin).count();
}

TEST(Timeline, CountsInnerPhasesToThemselvesOnly) {
  const auto begin = Timeline::Clock::now();
  Timeline timeline;
  double forward = 0.0, exchange = 0.0;
  {
    const Timeline::Scope outer(timeline, Phase::forward);
    forward += pass_time();
    {
      const Timeline::Scope inner(timeline, Phase::exchange);
      exchange += pass_time();
    }
    forward += pass_time();
  }
  { const Timeline::Scope again(timeline, Phase::exchange); }
  const double total = std::chrono::duration<double>(Timeline::Clock::now() - begin).count();
  EXPECT_GE(timeline.seconds(Phase::forward), forward);
  EXPECT_GE(timeline.seconds(Phase::exchange), exchange);
  EXPECT_LE(timeline.seconds(Phase::forward), total - exchange);
  EXPECT_LE(timeline.seconds(Phase::exchange), total - forward);
  EXPECT_EQ(timeline.seconds(Phase::backward), 0.0);
  timeline.reset();
  EXPECT_EQ(timeline.seconds(Phase::forward), 0.0);
}

TEST(Timeline, TellsWhereInTheModelTheHostIs) {
  Timeline timeline;
  std::vector<std::string> told;
  timeline.set_place_listener([&](const ModelPlace& place) {
    told.push_back(std::to_string(place.layer) + (place.backward ? "b" : "f") + place.transfer);
  });
  {
    const Timeline::At layer(timeline, {.layer = 3, .backward = true});
    const Timeline::At transfer(timeline, "dispatch");
  }
  EXPECT_EQ(told, (std::vector<std::string>{"3b", "3bdispatch", "3b", "-1f"}));
}

/// The work of a GPU's stream, which the host has long submitted, counts to the phase it belongs
/// to.
class StreamTimeline : public test::OnDevice {};
INSTANTIATE_TEST_SUITE_P(All, StreamTimeline,
                         testing::Values(test::Placement{DeviceType::cpu, DType::f32},
                                         test::Placement{DeviceType::cuda, DType::f32}),
                         test::name_of_placement);

TEST_P(StreamTimeline, CountsWorkToItsPhase) {
  const OwnedTensor from({std::int64_t{64} << 20}, DType::u8, device()),
      to({std::int64_t{64} << 20}, DType::u8, device());
  copy(*from, *to, stream());  // the first touches the memory
  Timeline timeline(stream());
  const auto begin = Timeline::Clock::now();
  {
    const Timeline::Scope outer(timeline, Phase::forward);
    copy(*from, *to, stream());
    const Timeline::Scope inner(timeline, Phase::exchange);
    // Many changes of phase, more than are kept unread.
    for (int i = 0; i < 1000; ++i) {
      const Timeline::Scope many(timeline, i % 2 == 0 ? Phase::data : Phase::exchange);
    }
    for (int i = 0; i < 20; ++i) copy(*from, *to, stream());
  }
  stream().synchronize();
  const double total = std::chrono::duration<double>(Timeline::Clock::now() - begin).count();
  EXPECT_GT(timeline.seconds(Phase::forward), 0.0);
  EXPECT_GT(timeline.seconds(Phase::exchange), timeline.seconds(Phase::forward));
  EXPECT_LE(timeline.seconds(Phase::forward) + timeline.seconds(Phase::exchange), total);
  timeline.reset();
  EXPECT_EQ(timeline.seconds(Phase::exchange), 0.0);
}

TEST(Timeline, PhasesHaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (std::size_t i = 0; i < static_cast<std::size_t>(Phase::count); ++i) {
    names.insert(name_of(static_cast<Phase>(i)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(Phase::count));
  EXPECT_FALSE(names.contains("?"));
}

}  // namespace
}  // namespace polymoe
