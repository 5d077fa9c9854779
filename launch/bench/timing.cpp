// SPDX-License-Identifier: Apache-2.0
#include "launch/bench/timing.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <vector>

#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace polymoe {
namespace {

/// Linear between neighbours; `sorted` is not empty.
double quantile(const std::vector<double>& sorted, double share) {
  const double position = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

double WorkFloor::seconds(const MachineRates& rates, int ranks) const {
  const double of_bytes = bytes / (reads_only ? rates.read : rates.copy);
  return static_cast<double>(ranks) * std::max(of_bytes, operations / rates.product);
}

bool WorkFloor::bound_by_products(const MachineRates& rates) const {
  return operations / rates.product > bytes / (reads_only ? rates.read : rates.copy);
}

Timing time_runs(Communicator& world, const std::function<void()>& body,
                 const TimingOptions& options, Stream& stream) {
  using Clock = std::chrono::steady_clock;
  body();
  const OwnedTensor slowest({1}, DType::f64, Device::cpu());
  std::vector<double> seconds;
  double total = 0.0;
  // All ranks see the same times, so they stop after the same run.
  while (static_cast<int>(seconds.size()) < options.fewest ||
         (static_cast<int>(seconds.size()) < options.most && total < options.seconds)) {
    world.barrier();
    const auto begin = Clock::now();
    body();
    stream.synchronize();
    *slowest->data<double>() = std::chrono::duration<double>(Clock::now() - begin).count();
    world.all_reduce(*slowest, Reduction::max, stream);
    seconds.push_back(*slowest->data<double>());
    total += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  return {.fastest = seconds.front(),
          .median = quantile(seconds, 0.5),
          .lower = quantile(seconds, 0.25),
          .upper = quantile(seconds, 0.75),
          .runs = static_cast<int>(seconds.size())};
}

}  // namespace polymoe
