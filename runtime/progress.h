// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace polymoe {

/// Where progress is shown.
struct ProgressOutput {
  std::FILE* file = nullptr;    // null = nowhere
  bool terminal = false;        // one line that rewrites itself, else plain lines now and then
  int columns = 0;              // of the terminal; 0 = as it says
  double silent_seconds = 1.0;  // how long Progress and Elapsed show nothing
};

/// Standard output or standard error, and whether it ends at a terminal. Open MPI gives every rank
/// a pseudo-terminal whatever its own output is, so under mpirun it is mpirun's output that counts.
ProgressOutput progress_on_stdout();
ProgressOutput progress_on_stderr();

/// Columns of the terminal behind an output; 80 where it does not say.
int columns_of(const ProgressOutput& output);

/// "1:02:03", "2:05", "0:07".
std::string clock_text(double seconds);
/// "987", "12.3k", "2.50M", "1.23B".
std::string short_count(double count);
/// "987 B", "12.3 KB", "2.50 GB".
std::string short_bytes(double bytes);

/// At most `columns` characters of UTF-8 text.
std::string_view fitted(std::string_view line, int columns);

/// The line that tells how far something is: on a terminal it rewrites itself, at most ten times a
/// second and no wider than the terminal; in a file it is printed at growing intervals, the first
/// after ten seconds, so that a long run leaves hundreds of lines and not a hundred thousand. For
/// one thread.
class StatusLine {
 public:
  explicit StatusLine(const ProgressOutput& output);
  /// Leaves the cursor at the start of a line.
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  /// Whether it is time to show something.
  bool due() const;
  /// Columns that a line may have; of a file, as good as none.
  int columns() const;
  /// Shows the line, due or not.
  void show(const std::string& line);
  /// A line that stays, e.g. of a validation.
  void note(const std::string& line);
  /// Takes away what a terminal shows.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  ProgressOutput output_;
  bool shown_ = false;  // on the terminal, unfinished
  double interval_seconds_;
  Clock::time_point last_;
};

/// What a Progress counts.
struct CountedWork {
  std::string what;        // "tokenizing"
  std::int64_t total = 0;  // 0 = not known
  std::string unit;        // "windows"; "bytes" are shown as KB, MB, GB
};

/// Progress of work that can be counted: "tokenizing  45 %  1.2 of 2.7 GB  35 MB/s  0:42 left".
/// Silent while it takes less than a second (silent_seconds); a terminal's line is gone when it
/// ends.
class Progress {
 public:
  Progress(const ProgressOutput& output, CountedWork work);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `count` more are done. Thread-safe.
  void advance(std::int64_t count = 1);

 private:
  using Clock = std::chrono::steady_clock;

  const CountedWork work_;
  std::atomic<std::int64_t> done_{0};
  const Clock::time_point begin_;
  const double silent_seconds_;
  std::mutex mutex_;  // of the line
  StatusLine line_;
};

/// Progress of work that cannot be counted: "loading runs/mine  0:12", told by a thread of its own
/// while this object lives. On a terminal silent and gone as Progress is, in a file silent for a
/// minute.
class Elapsed {
 public:
  Elapsed(const ProgressOutput& output, std::string what);
  ~Elapsed();
  Elapsed(const Elapsed&) = delete;
  Elapsed& operator=(const Elapsed&) = delete;

 private:
  void tell(double silent_seconds);

  const std::string what_;
  StatusLine line_;
  std::mutex mutex_;  // of ended_
  std::condition_variable end_;
  bool ended_ = false;
  std::thread thread_;  // none where nothing is shown
};

/// What Progress shows. `columns` too few for all of it: parts at the end are left out.
std::string counted_line(const CountedWork& work, std::int64_t done, double seconds, int columns);

}  // namespace polymoe
