// SPDX-License-Identifier: Apache-2.0
#include "launch/bench/exchange_cost.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/check.h"
#include "launch/config/config.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/machine_rates.h"
#include "moe/exchange_traffic.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"

namespace polymoe {
namespace {

using Counts = std::vector<std::int64_t>;

void reduce(Counts& counts, Reduction reduction, Communicator& group, Stream& stream) {
  const auto size = static_cast<std::int64_t>(counts.size());
  group.all_reduce(Tensor(counts.data(), {size}, DType::i64, Device::cpu()), reduction, stream);
}

}  // namespace

double ExchangeCost::hidden() const {
  const double on_link = seconds_on_link();
  return on_link > 0.0 ? std::clamp(1.0 - seconds_waited / on_link, 0.0, 1.0) : 0.0;
}

ExchangeCost exchange_cost(const std::vector<ExchangeTraffic>& traffic, int steps,
                           double seconds_waited, const Config& config, const ProcessMesh& mesh,
                           ExecutionContext& context) {
  Communicator& group = mesh.expert();
  const auto layers = static_cast<std::int64_t>(traffic.size());
  if (group.size() == 1 || layers == 0) return {};
  constexpr std::int64_t transfers_of_rows = 4;  // dispatch and combine, forward and backward
  ExchangeCost cost;
  Counts sums(3, 0), rows, most;
  std::int64_t passes = 0;
  for (const ExchangeTraffic& layer : traffic) {
    passes += layer.passes;
    sums[0] += layer.leaving_rows;
    sums[1] += layer.leaving_slots;
    rows.push_back(layer.expert_rows);
  }
  sums[2] = passes;
  most = rows;
  reduce(sums, Reduction::sum, group, context.stream);
  reduce(rows, Reduction::sum, group, context.stream);
  reduce(most, Reduction::max, group, context.stream);
  const double ranks = group.size(), of_a_step = 1.0 / (ranks * steps);
  cost.transfers = transfers_of_rows * passes / steps;
  const double dispatched = static_cast<double>(sums[0]) * of_a_step;
  cost.rows = transfers_of_rows * dispatched;
  cost.slots = transfers_of_rows * static_cast<double>(sums[1]) * of_a_step;
  const DType dtype = compute_dtype(config.train.precision, context.stream.device().type);
  const auto value = static_cast<double>(size_of(dtype));
  const auto wide = static_cast<double>(size_of(accumulation_dtype(dtype)));
  // Beside a row of forward its experts and weights, beside one of backward the weights' gradients.
  const double of_slots = static_cast<double>(config.model.moe.top_k) *
                          (static_cast<double>(size_of(DType::i32)) + 2.0 * wide);
  cost.bytes = cost.rows * value * static_cast<double>(config.model.hidden) + dispatched * of_slots;
  // A rank's own part of the measured transfer does not travel.
  const double sent = cost.rows * value * static_cast<double>(config.model.hidden) /
                      static_cast<double>(std::max<std::int64_t>(cost.transfers, 1));
  Counts message(1, static_cast<std::int64_t>(sent * ranks / (ranks - 1.0)));
  reduce(message, Reduction::max, group, context.stream);
  cost.bytes_per_second =
      measure_all_to_all_bandwidth(group, std::max<std::int64_t>(message[0], 1), context) / ranks;
  cost.seconds_waited = seconds_waited;
  double fullest = 0.0, mean = 0.0;
  for (std::size_t l = 0; l < rows.size(); ++l) {
    fullest += static_cast<double>(most[l]);
    mean += static_cast<double>(rows[l]) / ranks;
  }
  cost.fullest_over_mean = mean > 0.0 ? fullest / mean : 1.0;
  return cost;
}

}  // namespace polymoe
