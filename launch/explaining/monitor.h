// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

#include "parallel/communication/ledger.h"
#include "runtime/log.h"

namespace polymoe {

/// Watches a rank's ledger from a thread of its own for as long as it lives: says early which rank
/// is waited for, and whenever SIGUSR2 asks. Of several ranks that wait the lowest says it.
class RunMonitor {
 public:
  struct Options {
    std::filesystem::path run_directory;
    bool first_on_node = true;       // says all when asked; others a line about themselves
    double patience_seconds = 10.0;  // a wait is told after 5 median steps, but no sooner
  };

  RunMonitor(const Ledger& ledger, Log& log, Options options);
  ~RunMonitor();
  RunMonitor(const RunMonitor&) = delete;
  RunMonitor& operator=(const RunMonitor&) = delete;

 private:
  void watch();
  void look();

  const Ledger& ledger_;
  Log& log_;
  Options options_;
  int answered_;           // requests of SIGUSR2
  std::int64_t told_ = 0;  // operation whose wait was told last
  std::mutex mutex_;       // guards what follows
  std::condition_variable ends_;
  bool stopping_ = false;
  std::thread thread_;
};

/// What a rank says when its peers did not answer in time; empty where a lower rank of this node
/// waits as well and says it. Copies the ledger to RUN/ledger, for ranks of other nodes and `explain`.
std::string last_explanation(const Ledger& ledger, const std::filesystem::path& run_directory);

}  // namespace polymoe
