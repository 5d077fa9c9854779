// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

#include "tests/support/temporary_directory.h"

namespace polymoe::fuzz {

/// A directory of this process, removed at its end.
inline const std::filesystem::path& scratch() {
  static const test::TemporaryDirectory directory;
  return directory.path();
}

/// A parser broke a promise.
struct Defect : std::logic_error {
  using std::logic_error::logic_error;
};

inline void require(bool holds, const char* promise) {
  if (!holds) throw Defect(std::string("does not hold: ") + promise);
}

}  // namespace polymoe::fuzz
