// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/process_mesh.h"

#include <memory>
#include <string>
#include <utility>

#include "parallel/communication/communicator.h"
#include "runtime/error.h"

namespace polymoe {

ProcessMesh::ProcessMesh(std::unique_ptr<Communicator> world, int expert_parallel)
    : world_(std::move(world)) {
  const int ranks = world_->size();
  if (expert_parallel < 1 || ranks % expert_parallel != 0) {
    throw InvalidArgument("parallel.expert = " + std::to_string(expert_parallel) +
                          " does not divide the number of ranks, " + std::to_string(ranks));
  }
  expert_ = world_->split(expert_color(world_->rank(), expert_parallel));
  expert_replicas_ = world_->split(replicas_color(world_->rank(), expert_parallel));
}

void ProcessMesh::shutdown() {
  expert_replicas_->shutdown();
  expert_->shutdown();
  world_->shutdown();
}

}  // namespace polymoe
