// SPDX-License-Identifier: Apache-2.0
#include "runtime/violations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

TEST(ViolationsTest, EachNamesKeyValueAndRange) {
  Violations found;
  found.must_be("run.dir", "", "a directory");
  found.must_be("train.steps", std::int64_t{0}, "at least 1");
  found.in_range("model.heads", 65537, 1, 65536);
  found.positive("model.rope_theta", 0.0);
  found.positive("model.norm_epsilon", std::nan(""));
  found.not_negative("moe.z_loss", -0.5);
  found.add("a line of another form");
  EXPECT_EQ(found.lines(), (std::vector<std::string>{
                               "run.dir = : must be a directory",
                               "train.steps = 0: must be at least 1",
                               "model.heads = 65537: must be in [1, 65536]",
                               "model.rope_theta = 0: must be finite and > 0",
                               "model.norm_epsilon = nan: must be finite and > 0",
                               "moe.z_loss = -0.5: must be finite and >= 0",
                               "a line of another form",
                           }));
}

TEST(ViolationsTest, WhatIsAllowedIsNotListed) {
  Violations found;
  for (const std::int64_t heads : {1, 65536}) found.in_range("model.heads", heads, 1, 65536);
  found.positive("model.rope_theta", 1e-300);
  found.not_negative("moe.z_loss", 0.0);
  EXPECT_TRUE(found.empty());
}

TEST(ViolationsTest, TheyAreThrownAtOnce) {
  EXPECT_NO_THROW(refuse_violations("layout", {}));
  const auto message = [](const std::vector<std::string>& lines) {
    return test::message_of<InvalidArgument>([&] { refuse_violations("layout", lines); });
  };
  EXPECT_EQ(message({"a"}), "layout: a");
  EXPECT_EQ(message({"a", "b"}), "layout: 2 errors\n  a\n  b");
}

TEST(ViolationsTest, OfManyTheFirstAreListed) {
  std::vector<std::string> lines(20, "a");
  EXPECT_EQ(std::ranges::count(list_violations("layout", lines), 'a'), 21);  // one in "layout"
  lines.insert(lines.end(), 80, "a");
  const std::string text = list_violations("layout", lines);
  EXPECT_EQ(std::ranges::count(text, '\n'), 20);
  EXPECT_TRUE(text.ends_with("\n  and 81 more")) << text;
}

}  // namespace
}  // namespace polymoe
