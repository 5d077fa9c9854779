// SPDX-License-Identifier: Apache-2.0
#include "launch/training/progress.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace polymoe {
namespace {

constexpr double terminal_interval_seconds = 0.1;
constexpr double file_interval_seconds = 10.0;
// Steps after which an old duration weighs 1/e in the mean.
constexpr double memory_steps = 20.0;

std::string rate_text(double per_second) {
  if (per_second >= 1e6) return fmt::format("{:.2f}M", per_second / 1e6);
  if (per_second >= 1e4) return fmt::format("{:.1f}k", per_second / 1e3);
  return fmt::format("{:.0f}", per_second);
}

}  // namespace

std::string clock_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  const auto hours = whole / 3600;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string progress_line(const ProgressState& state) {
  std::string line = fmt::format("step {}/{}  loss {:.4f}  {} tokens/s", state.step,
                                 state.last_step, state.loss, rate_text(state.tokens_per_second));
  if (state.seconds_left >= 0.0) line += fmt::format("  {} left", clock_text(state.seconds_left));
  return line;
}

bool standard_output_is_terminal() {
  if (isatty(STDOUT_FILENO) == 0) return false;
  if (std::getenv("OMPI_COMM_WORLD_RANK") == nullptr) return true;
  const std::string output = fmt::format("/proc/{}/fd/1", getppid());
  const int descriptor = open(output.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool terminal = isatty(descriptor) != 0;
  close(descriptor);
  return terminal;
}

Progress::Progress(std::FILE* output, bool terminal, std::int64_t first_step,
                   std::int64_t last_step)
    : output_(output), terminal_(terminal), first_step_(first_step), last_step_(last_step) {}

Progress::~Progress() {
  if (output_ != nullptr && line_shown_) {
    std::fputc('\n', output_);
    std::fflush(output_);
  }
}

void Progress::step_done(std::int64_t step, double loss, double tokens_per_second, double seconds) {
  ++steps_seen_;
  // A plain mean at first, then one that forgets.
  const double weight = std::max(1.0 / static_cast<double>(steps_seen_), 1.0 / memory_steps);
  seconds_per_step_ += weight * (seconds - seconds_per_step_);
  if (output_ == nullptr) return;

  const auto now = Clock::now();
  const double interval = terminal_ ? terminal_interval_seconds : file_interval_seconds;
  const bool first = step == first_step_;
  const bool last = step == last_step_;
  if (!first && !last && std::chrono::duration<double>(now - last_shown_).count() < interval)
    return;
  last_shown_ = now;
  const std::string line =
      progress_line({.step = step,
                     .last_step = last_step_,
                     .loss = loss,
                     .tokens_per_second = tokens_per_second,
                     .seconds_left = seconds_per_step_ * static_cast<double>(last_step_ - step)});
  if (terminal_) {
    fmt::print(output_, "\r{}\x1b[K", line);
    line_shown_ = true;
  } else {
    fmt::print(output_, "{}\n", line);
  }
  std::fflush(output_);
}

void Progress::note(const std::string& line) {
  if (output_ == nullptr) return;
  clear_line();
  fmt::print(output_, "{}\n", line);
  std::fflush(output_);
}

void Progress::clear_line() {
  if (line_shown_) fmt::print(output_, "\r\x1b[K");
  line_shown_ = false;
}

}  // namespace polymoe
