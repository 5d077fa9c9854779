// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "launch/data/token_data.h"

namespace polymoe {

/// A rank's samples of one step after the other, read on a thread of their own some steps ahead, so
/// that no step waits for a disk that keeps up on average.
class ReadAhead {
 public:
  struct Settings {
    std::int64_t first = 0;             // sample of the run at which the first step begins
    std::int64_t per_step = 0;          // samples of a step over all ranks
    std::int64_t last = 0;              // no step from here on is read
    std::vector<std::int64_t> samples;  // this rank's within a step, in the order of its passes
  };
  struct Step {
    std::vector<std::int32_t> tokens, targets;  // [samples, context]
    std::vector<std::int32_t> document_starts;  // likewise, or empty
    std::int64_t predicted = 0;                 // targets that count
    std::int64_t padding = 0;                   // rows without a token

    TokenRows from(std::int64_t row);
  };

  /// `data` must outlive it, and must not begin anew meanwhile.
  ReadAhead(const TokenData& data, Settings settings);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  /// The next step. Throws what reading it threw.
  Step next();

 private:
  void work();
  Step read(std::int64_t first) const;

  const TokenData& data_;
  const Settings settings_;
  const std::size_t depth_;  // steps
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Step> ready_;
  std::exception_ptr failure_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace polymoe
