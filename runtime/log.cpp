// SPDX-License-Identifier: Apache-2.0
#include "runtime/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <string>

namespace polymoe {

Log::Log(int rank)
    : logger_(std::make_unique<spdlog::logger>("rank " + std::to_string(rank),
                                               std::make_shared<spdlog::sinks::stderr_sink_mt>())) {
  logger_->set_pattern("%H:%M:%S %n: %v");
  logger_->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger_->flush_on(spdlog::level::info);
}

Log::~Log() = default;
Log::Log(Log&&) noexcept = default;
Log& Log::operator=(Log&&) noexcept = default;

void Log::info(std::string_view line) { logger_->log(spdlog::level::info, line); }
void Log::warning(std::string_view line) {
  logger_->log(spdlog::level::warn, "warning: " + std::string(line));
}
void Log::error(std::string_view line) {
  logger_->log(spdlog::level::err, "error: " + std::string(line));
}

}  // namespace polymoe
