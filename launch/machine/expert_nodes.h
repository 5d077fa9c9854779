// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "launch/config/config.h"
#include "parallel/communication/communicator.h"

namespace polymoe {

/// The most ranks of an expert group that share a node, where all groups are spread alike: the
/// largest divisor n of `expert_parallel` for which every n neighbours, counted from rank 0, have
/// one host. hosts: by rank, equal for the ranks of one node.
int ranks_that_share_a_node(std::span<const std::uint64_t> hosts, int expert_parallel);

/// What parallel.expert_node means on these ranks: itself, or with 0 as many ranks of an expert
/// group as share a node. Collective over `world`.
int node_ranks_of(const ParallelConfig& parallel, Communicator& world);

}  // namespace polymoe
