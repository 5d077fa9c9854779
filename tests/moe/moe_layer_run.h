// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "moe/moe_layer.h"
#include "parallel/communication/communicator.h"
#include "runtime/buffer.h"
#include "runtime/execution.h"

namespace polymoe::test {

/// One MoE layer of a model, and what it is given.
struct LayerCase {
  ModelConfig config;
  std::int64_t length = 0;  // of every sequence
  std::vector<float> bias;  // of the router; empty = leave it
  /// Values by logical name; parameters that are not listed start as the configuration says, the
  /// coefficients moved at random so that their sets differ.
  std::map<std::string, std::vector<double>> values;
};

/// Who sees which sequences: of micro-batch m, rank r takes the next sequences[m][r].
struct LayerLayout {
  int ranks = 1;
  int expert_parallel = 1;
  std::vector<std::vector<std::int64_t>> sequences;
  int node_ranks = 1;  // ranks of an expert group that share a node

  std::string name() const;
};

struct LayerResult {
  std::vector<double> y, d_x;                            // in the order of the sequences
  std::map<std::string, std::vector<double>> gradients;  // by logical name, summed over ranks
  double balance = 0.0, z = 0.0;                         // summed over ranks
  std::vector<std::int64_t> counts;                      // summed over ranks; dropped last
  std::int64_t extra_rounds = 0;                         // summed over ranks
  std::size_t memory = 0;                                // of the arena, of the rank with most
};

/// One rank of a run: the layer with memory of its own, poisoned before use. OpenMP uses one thread
/// in the calling thread from then on, as the ranks share the machine.
class LayerRank {
 public:
  LayerRank(const LayerCase& layer_case, std::unique_ptr<Communicator> world, int expert_parallel,
            DType dtype, Device device = Device::cpu(), int node_ranks = 1);

  MoeLayer& layer() { return *layer_; }
  ParameterStore& store() { return store_; }
  Arena& arena() { return execution_.arena(); }
  Stream& stream() { return execution_.stream(); }

  /// y = layer(x), d_x and gradients for d_y, as a training step does it; with `recompute`, forward
  /// runs a second time before backward.
  void forward_backward(const Tensor& x, const Tensor& d_y, const BatchLayout& layout, Tensor y,
                        Tensor d_x, bool recompute = false);
  /// The other ranks leave too.
  void shutdown() { mesh_.shutdown(); }

 private:
  ProcessMesh mesh_;
  ParameterStore store_;
  std::unique_ptr<MoeLayer> layer_;
  std::unique_ptr<FeedForward::Saved> saved_;
  Execution execution_;
};

/// Runs all ranks as threads. x, d_y [sequences * length, hidden] of one dtype.
LayerResult run_layer(const LayerCase& layer_case, const LayerLayout& layout, const Tensor& x,
                      const Tensor& d_y);

}  // namespace polymoe::test
