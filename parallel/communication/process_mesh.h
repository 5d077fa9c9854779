// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "parallel/communication/communicator.h"

namespace polymoe {

/// The ranks that share the experts of a layer. Where `node` is there, they are several nodes of
/// several ranks each: `node` has those of this rank's node, `across` one of every node, this rank
/// among them, in the order of the nodes.
struct ExpertGroups {
  Communicator& all;
  Communicator* node = nullptr;
  Communicator* across = nullptr;
};

/// The ranks of a run and the groups they form.
///
/// With expert-parallel size E, ranks [i E, (i + 1) E) together hold all experts of a layer (group
/// `expert`), and the ranks of equal rank % E hold the same experts (group `expert_replicas`).
/// Every rank is a data-parallel rank: the dense parameters are replicated over `world`. Where a
/// group `expert` is spread over nodes of N of its ranks each, neighbours, it has two groups more
/// (ExpertGroups).
class ProcessMesh {
 public:
  /// The color that `rank` gives when `world` is split, first into the expert groups, then into the
  /// groups of replicas.
  static int expert_color(int rank, int expert_parallel) { return rank / expert_parallel; }
  static int replicas_color(int rank, int expert_parallel) { return rank % expert_parallel; }
  /// And then, where rows go by node, into the nodes, and the ranks across them.
  static int node_color(int rank, int node_ranks) { return rank / node_ranks; }
  static int across_color(int rank, int expert_parallel, int node_ranks) {
    return rank / expert_parallel * node_ranks + rank % node_ranks;
  }
  static bool goes_by_node(int expert_parallel, int node_ranks) {
    return node_ranks > 1 && node_ranks < expert_parallel;
  }

  /// `node_ranks`: ranks of an expert group that share a node; 1, or all of them: no groups by
  /// node. Collective over `world`. Throws InvalidArgument unless expert_parallel divides its size,
  /// and node_ranks that.
  ProcessMesh(std::unique_ptr<Communicator> world, int expert_parallel, int node_ranks = 1);

  Communicator& world() const { return *world_; }
  Communicator& expert() const { return *expert_; }
  Communicator& expert_replicas() const { return *expert_replicas_; }
  int expert_parallel() const { return expert_->size(); }
  /// How many ranks a group by node has; 1 where there are no such groups.
  int node_ranks() const { return node_ ? node_->size() : 1; }
  ExpertGroups expert_groups() const { return {*expert_, node_.get(), across_.get()}; }

  /// First of this rank's `experts / expert_parallel` experts.
  std::int64_t first_expert(std::int64_t experts) const {
    return experts / expert_->size() * expert_->rank();
  }

  /// Orderly, collective end of all groups.
  void shutdown();

 private:
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Communicator> expert_;
  std::unique_ptr<Communicator> expert_replicas_;
  std::unique_ptr<Communicator> node_, across_;  // or null
};

}  // namespace polymoe
