// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "launch/explaining/explanation.h"
#include "parallel/communication/ledger.h"
#include "runtime/log.h"

namespace polymoe {

/// Watches a rank's ledger from a thread of its own for as long as it lives, from the run's start
/// on: says early which rank is waited for, or that this one, for which nobody waits yet, is long
/// at one thing; and whenever SIGUSR2 asks. Of several ranks that wait the lowest says it, and
/// starts the alarm's command.
class RunMonitor {
 public:
  struct Options {
    std::filesystem::path run_directory;
    bool first_on_node = true;  // says all when asked; others a line about themselves
    int ranks_on_node = 1;
    std::string alarm = {};                // run.alarm
    double patience_seconds = 10.0;        // a wait is told after 5 median steps, but no sooner
    double start_patience_seconds = 60.0;  // before a step's time is known; told without the alarm
  };

  RunMonitor(const Ledger& ledger, Log& log, Options options);
  ~RunMonitor();
  RunMonitor(const RunMonitor&) = delete;
  RunMonitor& operator=(const RunMonitor&) = delete;

 private:
  void watch();
  void look();
  void tell(const std::string& what);
  void look_after_peers();

  const Ledger& ledger_;
  Log& log_;
  Options options_;
  std::vector<ExplainedRank> peers_;  // of this node, once all of them are known
  bool told_of_loss_ = false;
  int answered_;          // requests of SIGUSR2
  double told_ = 0.0;     // when the operation was posted whose wait was told last
  double told_of_ = 0.0;  // when the work began whose length was told last
  std::mutex mutex_;      // guards what follows
  std::condition_variable ends_;
  bool stopping_ = false;
  std::thread thread_;
};

/// Starts `command` by the shell, with `what` in POLYMOE_ALARM and the run directory in
/// POLYMOE_RUN, and does not wait for it. Returns the reason where it cannot be started, or an
/// empty text.
std::string start_alarm(const std::string& command, const std::string& what,
                        const std::filesystem::path& run_directory);

/// What a rank says when its peers did not answer in time; empty where a lower rank of this node
/// waits as well and says it. Copies the ledger to RUN/ledger, for ranks of other nodes and
/// `explain`.
std::string last_explanation(const Ledger& ledger, const std::filesystem::path& run_directory);

}  // namespace polymoe
