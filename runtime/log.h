// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string_view>

namespace spdlog {
class logger;
}

namespace polymoe {

/// Lines on stderr, each with the time and the rank: "14:03:27 rank 0: ...". Thread-safe.
class Log {
 public:
  explicit Log(int rank);
  ~Log();
  Log(Log&&) noexcept;
  Log& operator=(Log&&) noexcept;

  /// What every rank would say alike: only rank 0 prints it.
  void info(std::string_view line);
  /// Printed by whichever rank meets it.
  void warning(std::string_view line);
  void error(std::string_view line);

 private:
  std::unique_ptr<spdlog::logger> logger_;
};

}  // namespace polymoe
