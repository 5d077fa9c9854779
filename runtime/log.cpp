// SPDX-License-Identifier: Apache-2.0
#include "runtime/log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace polymoe {

bool append_dated_line(const std::filesystem::path& file, std::string_view text) noexcept {
  try {
    const std::string line =
        fmt::format("{:%Y-%m-%dT%H:%M:%SZ} {}\n", fmt::gmtime(std::time(nullptr)), text);
    const int descriptor = open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor < 0) return false;
    const bool written =
        write(descriptor, line.data(), line.size()) == static_cast<ssize_t>(line.size());
    const int cause = errno;
    close(descriptor);
    errno = cause;
    return written;
  } catch (...) {
    return false;
  }
}

struct Log::Destinations {
  Destinations(int log_rank, std::filesystem::path log_file)
      : name(log_rank == alone ? std::string() : "rank " + std::to_string(log_rank) + ": "),
        first(log_rank == 0 || log_rank == alone),
        file(std::move(log_file)),
        terminal(name, std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
    terminal.set_pattern("%H:%M:%S %n%v");
    terminal.set_level(first ? spdlog::level::info : spdlog::level::warn);
    terminal.flush_on(spdlog::level::info);
  }

  void say(spdlog::level::level_enum level, const std::string& line) {
    terminal.log(level, line);
    if (file.empty() || (level < spdlog::level::warn && !first)) return;
    if (append_dated_line(file, name + line)) return;
    const std::string cause = std::strerror(errno);
    std::error_code error;
    // A run that is refused has no directory, and makes none to say so.
    if (first && std::filesystem::exists(file.parent_path(), error) && !failure_told.exchange(true))
      terminal.warn("warning: {}: {}; going on without it", file.string(), cause);
  }

  std::string name;
  bool first;
  std::filesystem::path file;
  spdlog::logger terminal;
  std::atomic<bool> failure_told = false;
};

Log::Log(int rank, std::filesystem::path file)
    : to_(std::make_unique<Destinations>(rank, std::move(file))) {}

Log::~Log() = default;
Log::Log(Log&&) noexcept = default;
Log& Log::operator=(Log&&) noexcept = default;

void Log::info(std::string_view line) { to_->say(spdlog::level::info, std::string(line)); }
void Log::warning(std::string_view line) {
  to_->say(spdlog::level::warn, "warning: " + std::string(line));
}
void Log::error(std::string_view line) {
  to_->say(spdlog::level::err, "error: " + std::string(line));
}

}  // namespace polymoe
