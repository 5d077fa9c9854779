// SPDX-License-Identifier: Apache-2.0
#include "machine_rates.h"

#include <cstdint>

#include "launch/machine/machine_rates.h"
#include "parallel/communication/local/local_communicator.h"
#include "runtime/execution.h"

namespace polymoe::benchmarks {
namespace {

/// One of the rates of launch/machine/machine_rates.h, of this process alone.
template <class Measure, class Size>
double of_this_process(const Measure& measure, const Size& size) {
  Execution execution({.device = Device::cpu(), .capacity = std::size_t{1} << 30});
  return measure(*make_local_communicators(1).front(), size, execution.context());
}

}  // namespace

double matrix_product_rate() {
  static const double rate = of_this_process(measure_product_rate, SquareProduct{.extent = 2048});
  return rate;
}

double copy_bandwidth() {
  static const double bandwidth = of_this_process(measure_copy_bandwidth, std::int64_t{256} << 20);
  return bandwidth;
}

}  // namespace polymoe::benchmarks
