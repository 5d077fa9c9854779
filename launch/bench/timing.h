// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "parallel/communication/communicator.h"
#include "runtime/context.h"

namespace polymoe {

/// What all ranks together can do per second: see machine_rates.h.
struct MachineRates {
  double copy = 0.0;        // bytes, reads and writes counted
  double read = 0.0;        // bytes
  double product = 0.0;     // operations
  double all_to_all = 0.0;  // bytes sent; 0 on one rank
};

/// What a piece of work costs at the least, of one rank: each operand read once, each result
/// written once, and the operations of its matrix products. What only reads is held to the
/// bandwidth of reading.
struct WorkFloor {
  double bytes = 0.0;
  double operations = 0.0;
  bool reads_only = false;

  /// Seconds that `ranks` ranks need for it at the same time on such a machine.
  double seconds(const MachineRates& rates, int ranks) const;
  /// Whether the operations take longer than the bytes.
  bool bound_by_products(const MachineRates& rates) const;
};

/// Seconds of repeated runs, each that of the slowest rank.
struct Timing {
  double fastest = 0.0;
  double median = 0.0;
  double lower = 0.0, upper = 0.0;  // quartiles
  int runs = 0;
};

struct TimingOptions {
  int fewest = 5;
  int most = 25;
  double seconds = 1.0;  // no further run after that, once there are the fewest
};

/// Times `body` on all ranks at once, after one run to warm up. Collective over `world`.
Timing time_runs(Communicator& world, const std::function<void()>& body,
                 const TimingOptions& options, Stream& stream);

/// One line of the table.
struct BenchResult {
  std::string name = {};
  std::string shape = {};
  WorkFloor floor = {};
  Timing timing = {};
};

}  // namespace polymoe
