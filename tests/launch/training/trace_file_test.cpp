// SPDX-License-Identifier: Apache-2.0
#include "launch/training/trace_file.h"

#include <gtest/gtest.h>

#include <map>

#include "launch/config/step_range.h"

namespace polymoe {
namespace {

RankTrace trace_of(const std::string& title, double begin) {
  return {.title = title,
          .steps = {{.name = "step 3", .begin = 0.0, .end = 2.0}},
          .host = {{.name = "forward", .begin = 0.0, .end = 1.0}},
          .stream = {},
          .operations = {{.group = 1,
                          .group_name = "world/0",
                          .sequence = 7,
                          .name = "all_to_all",
                          .bytes = 4096,
                          .place = "dispatch of layer 7, forward pass",
                          .posted = 0.25,
                          .begin = begin,
                          .end = 1.5}}};
}

TEST(TraceFileTest, OperationsOfRanksAreLinkedInTheOrderOfTheirBeginning) {
  RankTrace alone = trace_of("rank 2 on c", 0.1);
  alone.operations[0].group_name = "world/1";
  const Json trace = parse_json(
      chrome_trace({trace_of("rank 0 on a", 1.0), trace_of("rank 1 on b", 0.5), alone}), "trace");
  std::map<std::string, std::vector<const Json*>> events;  // by their kind
  for (const Json& event : trace.at("traceEvents").items())
    events[event.at("ph").as_string()].push_back(&event);
  ASSERT_EQ(events["X"].size(), 9U);
  const Json& operation = *events["X"][2];
  EXPECT_EQ(operation.at("name").as_string(), "all_to_all");
  EXPECT_DOUBLE_EQ(operation.at("ts").as_number(), 1e6);
  EXPECT_DOUBLE_EQ(operation.at("dur").as_number(), 5e5);
  EXPECT_DOUBLE_EQ(operation.at("args").at("queued_us").as_number(), 7.5e5);
  EXPECT_EQ(operation.at("args").at("bytes").as_integer(), 4096);
  EXPECT_EQ(operation.at("args").at("posted in").as_string(), "dispatch of layer 7, forward pass");
  ASSERT_EQ(events["s"].size(), 1U);
  ASSERT_EQ(events["f"].size(), 1U);
  EXPECT_EQ(events["t"].size(), 0U);
  EXPECT_EQ(events["s"][0]->at("pid").as_integer(), 1);
  EXPECT_EQ(events["f"][0]->at("pid").as_integer(), 0);
  EXPECT_EQ(events["s"][0]->at("id").as_integer(), events["f"][0]->at("id").as_integer());
  EXPECT_EQ(events["s"][0]->at("tid").as_integer(), operation.at("tid").as_integer());
  EXPECT_EQ(events["M"].size(), 12U);
  EXPECT_EQ(events["M"][0]->at("args").at("name").as_string(), "rank 0 on a");
}

TEST(TraceFileTest, ARanksPartTravelsAsText) {
  RankTrace trace = trace_of("rank 0 on \"a\"", 1.0 / 3.0);
  trace.stream = {{.name = "backward", .begin = -0.5, .end = 1e-7}};
  EXPECT_EQ(RankTrace::from_text(trace.to_text()).to_text(), trace.to_text());
}

TEST(StepRangeTest, IsOneStepOrTwoAscendingOnes) {
  EXPECT_EQ(StepRange::parse("20-25")->last, 25);
  EXPECT_EQ(StepRange::parse("20")->last, 20);
  EXPECT_EQ(StepRange::parse("20")->first, 20);
  for (const char* wrong :
       {"", "0", "5-4", "-3", "3-", "a", "1-2-3", "1 - 2", "99999999999999999999"})
    EXPECT_FALSE(StepRange::parse(wrong)) << wrong;
}

}  // namespace
}  // namespace polymoe
