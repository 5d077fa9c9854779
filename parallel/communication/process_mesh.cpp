// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/process_mesh.h"

#include <memory>
#include <string>
#include <utility>

#include "parallel/communication/communicator.h"
#include "runtime/error.h"

namespace polymoe {

ProcessMesh::ProcessMesh(std::unique_ptr<Communicator> world, int expert_parallel, int node_ranks)
    : world_(std::move(world)) {
  const int ranks = world_->size();
  if (expert_parallel < 1 || ranks % expert_parallel != 0) {
    throw InvalidArgument("parallel.expert = " + std::to_string(expert_parallel) +
                          " does not divide the number of ranks, " + std::to_string(ranks));
  }
  if (node_ranks < 1 || expert_parallel % node_ranks != 0) {
    throw InvalidArgument("parallel.expert_node = " + std::to_string(node_ranks) +
                          " does not divide parallel.expert = " + std::to_string(expert_parallel));
  }
  expert_ = world_->split(expert_color(world_->rank(), expert_parallel));
  expert_replicas_ = world_->split(replicas_color(world_->rank(), expert_parallel));
  if (goes_by_node(expert_parallel, node_ranks)) {
    node_ = world_->split(node_color(world_->rank(), node_ranks));
    across_ = world_->split(across_color(world_->rank(), expert_parallel, node_ranks));
  }
}

void ProcessMesh::shutdown() {
  if (across_) across_->shutdown();
  if (node_) node_->shutdown();
  expert_replicas_->shutdown();
  expert_->shutdown();
  world_->shutdown();
}

}  // namespace polymoe
