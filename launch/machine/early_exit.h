// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

namespace polymoe {

/// While it lives, exit() is an error: something deep inside, a library mostly, gives the process
/// up that peers wait for. Then `tell` is called, on the thread that called exit(), and the process
/// ends with 70. One at a time in a process.
class EarlyExit {
 public:
  explicit EarlyExit(std::function<void()> tell);
  ~EarlyExit();
  EarlyExit(const EarlyExit&) = delete;
  EarlyExit& operator=(const EarlyExit&) = delete;
};

}  // namespace polymoe
