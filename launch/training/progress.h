// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace polymoe {

/// What the progress line tells of a step.
struct ProgressState {
  std::int64_t step = 0;       // done
  std::int64_t last_step = 0;  // of this invocation
  double loss = 0.0;
  double tokens_per_second = 0.0;
  double seconds_left = -1.0;  // until last_step; negative = not known yet
};

/// "step 120/400  loss 3.1416  12.3k tokens/s  2:05 left".
std::string progress_line(const ProgressState& state);

/// "1:02:03", "2:05", "0:07".
std::string clock_text(double seconds);

/// Whether standard output ends at a terminal. Open MPI gives every rank a pseudo-terminal whatever
/// its own output is, so under mpirun it is mpirun's output that counts.
bool standard_output_is_terminal();

/// Shows how far a run is: on a terminal one line that rewrites itself, in a file a plain line now
/// and then.
class Progress {
 public:
  /// `output` may be null: nothing is shown.
  Progress(std::FILE* output, bool terminal, std::int64_t first_step, std::int64_t last_step);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// A step took `seconds`, all its work included.
  void step_done(std::int64_t step, double loss, double tokens_per_second, double seconds);
  /// A line that stays, e.g. of a validation.
  void note(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;
  void clear_line();

  std::FILE* output_;
  bool terminal_;
  std::int64_t first_step_;
  std::int64_t last_step_;
  double seconds_per_step_ = 0.0;  // mean that forgets old steps
  std::int64_t steps_seen_ = 0;
  bool line_shown_ = false;
  Clock::time_point last_shown_;
};

}  // namespace polymoe
