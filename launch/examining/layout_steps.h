// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "parallel/communication/communicator.h"
#include "runtime/device.h"

namespace polymoe {

/// A whole tensor of a model, put together from all ranks.
struct WholeTensor {
  std::string name;  // "layers.3.experts.17.up.weight"
  int segment = 0;   // embedding, blocks, output, from 0
  std::vector<float> values;
};

/// A step as it came out of a layout. The order of tensors is the same in every layout.
struct LayoutStep {
  std::int64_t step = 0;  // from 1
  double loss = 0.0;
  std::vector<WholeTensor> gradients;   // reduced; the last segment first, as they come about
  std::vector<WholeTensor> parameters;  // after the update; the first segment first
};

/// Where a rank of a layout computes.
struct LayoutRank {
  Device device = Device::cpu();
  int device_sharers = 1;
  int threads = 1;
  bool share_gpus = true;
};

/// Trains the model of `config` from its initial weights for `steps` steps, on the ranks of `world`
/// (host memory) with parallel.expert as it is in `config`: the same samples, from data.train or,
/// where there is none, random tokens, whatever the layout is. Rank 0 is shown each step.
/// Collective. Throws InvalidArgument where the layout cannot hold the model.
void run_layout(const Config& config, std::int64_t steps, std::unique_ptr<Communicator> world,
                const LayoutRank& place, const std::function<void(const LayoutStep&)>& show);

/// Runs it with `ranks` ranks that are threads of this process. place_of gives each its place;
/// what a rank throws is thrown, rather than what its peers say then.
void run_layout_on_threads(const Config& config, std::int64_t steps, int ranks,
                           const std::function<LayoutRank(int rank)>& place_of,
                           const std::function<void(const LayoutStep&)>& show);

}  // namespace polymoe
