// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "parallel/communication/communicator.h"

namespace polymoe {

/// The ranks of a run and the groups they form.
///
/// With expert-parallel size E, ranks [i E, (i + 1) E) together hold all experts of a layer (group
/// `expert`), and the ranks of equal rank % E hold the same experts (group `expert_replicas`).
/// Every rank is a data-parallel rank: the dense parameters are replicated over `world`.
class ProcessMesh {
 public:
  /// The color that `rank` gives when `world` is split, first into the expert groups, then into the
  /// groups of replicas.
  static int expert_color(int rank, int expert_parallel) { return rank / expert_parallel; }
  static int replicas_color(int rank, int expert_parallel) { return rank % expert_parallel; }

  /// Collective over `world`. Throws InvalidArgument unless expert_parallel divides its size.
  ProcessMesh(std::unique_ptr<Communicator> world, int expert_parallel);

  Communicator& world() const { return *world_; }
  Communicator& expert() const { return *expert_; }
  Communicator& expert_replicas() const { return *expert_replicas_; }
  int expert_parallel() const { return expert_->size(); }

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
};

}  // namespace polymoe
