// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "runtime/progress.h"

namespace polymoe::test {

/// A terminal in memory on which even the shortest work shows its progress.
class RecordedProgress {
 public:
  ProgressOutput output() const {
    return {.file = file_.get(), .terminal = true, .columns = 120, .silent_seconds = 0.0};
  }
  std::string text() const {
    std::string text(static_cast<std::size_t>(std::ftell(file_.get())), '\0');
    std::rewind(file_.get());
    text.resize(std::fread(text.data(), 1, text.size(), file_.get()));
    return text;
  }

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{std::tmpfile(), std::fclose};
};

}  // namespace polymoe::test
