// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "parallel/communication/communicator.h"

namespace polymoe {

/// One rank of a group whose other ranks do not exist: what the memory plan runs on, with tensors
/// on the meta device. Every operation returns at once and moves nothing; all_to_all_counts
/// answers with what was sent.
class PlanningCommunicator final : public Communicator {
 public:
  /// split_colors[i][r] is the color that rank r would give at the i-th call of split().
  PlanningCommunicator(int rank, int size, std::vector<std::vector<int>> split_colors);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Pending start(const Collective&, Stream&) override { return {}; }
  void barrier() override {}
  void all_to_all_counts(std::span<const std::int64_t> send,
                         std::span<std::int64_t> receive) override;
  /// Throws InvalidArgument when this call or color was not announced to the constructor.
  std::unique_ptr<Communicator> split(int color) override;
  void interrupt() override {}
  void shutdown() override {}

 private:
  int rank_;
  int size_;
  std::vector<std::vector<int>> split_colors_;
  std::size_t splits_ = 0;
};

/// The world of rank `rank` of `ranks` for one ProcessMesh with that expert-parallel size and as
/// many ranks of an expert group in a node. Throws InvalidArgument unless 0 <= rank < ranks and
/// expert_parallel divides ranks.
std::unique_ptr<Communicator> make_planning_world(int rank, int ranks, int expert_parallel,
                                                  int node_ranks = 1);

}  // namespace polymoe
