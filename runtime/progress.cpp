// SPDX-License-Identifier: Apache-2.0
#include "runtime/progress.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polymoe {
namespace {

constexpr double terminal_interval_seconds = 0.1;
constexpr double first_file_interval_seconds = 10.0;
constexpr double file_interval_growth = 1.3;
constexpr double longest_file_interval_seconds = 600.0;
constexpr double elapsed_in_file_seconds = 60.0;  // below that a log is better off without
constexpr int default_columns = 80;

bool under_mpirun() { return std::getenv("OMPI_COMM_WORLD_RANK") != nullptr; }

/// The descriptor `number` of this process, or under mpirun mpirun's own.
class OutputDescriptor {
 public:
  explicit OutputDescriptor(int number) : descriptor_(number) {
    if (!under_mpirun()) return;
    const std::string path = fmt::format("/proc/{}/fd/{}", getppid(), number);
    descriptor_ = open(path.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
    opened_ = true;
  }
  ~OutputDescriptor() {
    if (opened_ && descriptor_ >= 0) close(descriptor_);
  }
  OutputDescriptor(const OutputDescriptor&) = delete;
  OutputDescriptor& operator=(const OutputDescriptor&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
  bool opened_ = false;
};

ProgressOutput standard(std::FILE* file, int number) {
  if (isatty(number) == 0) return {.file = file};
  const OutputDescriptor descriptor(number);
  return {.file = file, .terminal = descriptor.get() >= 0 && isatty(descriptor.get()) != 0};
}

std::string scaled(double value, const std::array<const char*, 5>& units) {
  std::size_t unit = 0;
  while (value >= 1e4 && unit == 0) value /= 1e3, ++unit;
  while (value >= 999.5 && unit > 0 && unit + 1 < units.size()) value /= 1e3, ++unit;
  const int digits = unit == 0 ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}{}", value, digits, units[unit]);
}

}  // namespace

ProgressOutput progress_on_stdout() { return standard(stdout, STDOUT_FILENO); }
ProgressOutput progress_on_stderr() { return standard(stderr, STDERR_FILENO); }

int columns_of(const ProgressOutput& output) {
  if (output.columns > 0) return output.columns;
  winsize size{};
  if (output.file != nullptr) {
    const OutputDescriptor descriptor(fileno(output.file));
    if (descriptor.get() >= 0 && ioctl(descriptor.get(), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
      return size.ws_col;
  }
  return default_columns;
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  const auto hours = whole / 3600;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string short_count(double count) { return scaled(count, {"", "k", "M", "B", "T"}); }
std::string short_bytes(double bytes) { return scaled(bytes, {" B", " KB", " MB", " GB", " TB"}); }

std::string_view fitted(std::string_view line, int columns) {
  std::size_t bytes = 0;
  for (int used = 0; bytes < line.size(); ++bytes) {
    const bool starts = (static_cast<unsigned char>(line[bytes]) & 0xC0) != 0x80;
    if (starts && ++used > columns) break;
  }
  return line.substr(0, bytes);
}

StatusLine::StatusLine(const ProgressOutput& output)
    : output_(output),
      interval_seconds_(output.terminal ? 0.0 : first_file_interval_seconds),
      last_(Clock::now()) {}

StatusLine::~StatusLine() {
  if (!shown_) return;
  std::fputc('\n', output_.file);
  std::fflush(output_.file);
}

bool StatusLine::due() const {
  return output_.file != nullptr &&
         std::chrono::duration<double>(Clock::now() - last_).count() >= interval_seconds_;
}

int StatusLine::columns() const {
  // A terminal that is full to its last column breaks the line before it is rewritten.
  return output_.terminal ? std::max(1, columns_of(output_) - 1) : std::numeric_limits<int>::max();
}

void StatusLine::show(const std::string& line) {
  if (output_.file == nullptr) return;
  if (output_.terminal) {
    fmt::print(output_.file, "\r{}\x1b[K", fitted(line, columns()));
    interval_seconds_ = terminal_interval_seconds;
    shown_ = true;
  } else {
    fmt::print(output_.file, "{}\n", line);
    const double since = std::chrono::duration<double>(Clock::now() - last_).count();
    if (since >= interval_seconds_)
      interval_seconds_ =
          std::min(interval_seconds_ * file_interval_growth, longest_file_interval_seconds);
  }
  std::fflush(output_.file);
  last_ = Clock::now();
}

void StatusLine::note(const std::string& line) {
  if (output_.file == nullptr) return;
  clear();
  fmt::print(output_.file, "{}\n", line);
  std::fflush(output_.file);
}

void StatusLine::clear() {
  if (shown_) fmt::print(output_.file, "\r\x1b[K");
  shown_ = false;
}

std::string counted_line(const CountedWork& work, std::int64_t done, double seconds, int columns) {
  const bool bytes = work.unit == "bytes";
  const auto amount = [&](double value) { return bytes ? short_bytes(value) : short_count(value); };
  const std::string unit = bytes ? "" : " " + work.unit;
  const double rate = seconds > 0.0 ? static_cast<double>(done) / seconds : 0.0;
  const bool slow = !bytes && rate > 0.0 && rate < 9.95;
  const std::string speed =
      slow ? fmt::format("{:.{}f}", rate, rate < 0.995 ? 2 : 1) : amount(rate);
  std::vector<std::string> parts = {work.what};
  if (work.total > 0)
    parts.push_back(fmt::format("{} %", done * 100 / std::max<std::int64_t>(work.total, 1)));
  parts.push_back(work.total > 0 ? fmt::format("{} of {}{}", amount(static_cast<double>(done)),
                                               amount(static_cast<double>(work.total)), unit)
                                 : amount(static_cast<double>(done)) + unit);
  parts.push_back(speed + unit + "/s");
  if (work.total > 0 && rate > 0.0)
    parts.push_back(clock_text(static_cast<double>(work.total - done) / rate) + " left");
  // The time left matters more than the rate, the share more than the amounts.
  while (parts.size() > 2) {
    std::size_t length = 0;
    for (const std::string& part : parts) length += part.size() + 2;
    if (length <= static_cast<std::size_t>(columns) + 2) break;
    parts.erase(parts.begin() + 2);
  }
  return fmt::format("{}", fmt::join(parts, "  "));
}

Progress::Progress(const ProgressOutput& output, CountedWork work)
    : work_(std::move(work)),
      begin_(Clock::now()),
      silent_seconds_(output.silent_seconds),
      line_(output) {}

Progress::~Progress() { line_.clear(); }

void Progress::advance(std::int64_t count) {
  const std::int64_t done = done_ += count;
  // Whoever finds the line taken leaves showing to the one who has it.
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || !line_.due()) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  if (seconds < silent_seconds_) return;
  line_.show(counted_line(work_, done, seconds, line_.columns()));
}

Elapsed::Elapsed(const ProgressOutput& output, std::string what)
    : what_(std::move(what)), line_(output) {
  if (output.file != nullptr)
    thread_ =
        std::thread([this, seconds = output.terminal ? output.silent_seconds
                                                     : elapsed_in_file_seconds] { tell(seconds); });
}

Elapsed::~Elapsed() {
  {
    const std::scoped_lock lock(mutex_);
    ended_ = true;
  }
  end_.notify_all();
  if (thread_.joinable()) thread_.join();
  line_.clear();
}

void Elapsed::tell(double silent_seconds) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  std::unique_lock lock(mutex_);
  std::chrono::duration<double> pause(silent_seconds);
  while (!end_.wait_for(lock, pause, [this] { return ended_; })) {
    pause = std::chrono::seconds(1);
    if (!line_.due()) continue;
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    line_.show(what_ + "  " + clock_text(seconds));
  }
}

}  // namespace polymoe
