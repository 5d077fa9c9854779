// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace polymoe::test {

/// What the built program answers to these arguments.
inline ProcessResult run_program(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), POLYMOE_PROGRAM);
  return run_process(arguments);
}

/// Expects that it refused with that code, and said why in one line that holds every part.
inline void expect_refusal(const ProcessResult& result, int exit_code,
                           const std::vector<std::string>& parts) {
  EXPECT_EQ(result.exit_code, exit_code) << result.standard_error;
  const std::string& line = result.standard_error;
  EXPECT_TRUE(line.starts_with("polymoe: ")) << line;
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
  for (const std::string& part : parts)
    EXPECT_NE(line.find(part), std::string::npos) << "'" << part << "' not in: " << line;
}

}  // namespace polymoe::test
