// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

namespace spdlog {
class logger;
}

namespace polymoe {

/// Adds "2026-11-28T14:03:27Z TEXT" to a file, in one write, so that several ranks may do it. The
/// file is made where its directory is there. Returns whether it could be written.
bool append_dated_line(const std::filesystem::path& file, std::string_view text) noexcept;

/// Lines on stderr, each with the time and the rank: "14:03:27 rank 0: ...", and with the date in a
/// file. A file that cannot be written is told once on stderr and ends nothing. Thread-safe.
class Log {
 public:
  /// The rank of a process that is alone: its lines name none.
  static constexpr int alone = -1;
  /// `file` empty: stderr alone.
  explicit Log(int rank, std::filesystem::path file = {});
  ~Log();
  Log(Log&&) noexcept;
  Log& operator=(Log&&) noexcept;

  /// What every rank would say alike: only rank 0 says it.
  void info(std::string_view line);
  /// Said by whichever rank meets it.
  void warning(std::string_view line);
  void error(std::string_view line);

 private:
  struct Destinations;
  std::unique_ptr<Destinations> to_;
};

}  // namespace polymoe
