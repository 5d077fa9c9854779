// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/communication/communicator.h"

namespace polymoe {

/// The cores that a rank may run on.
struct RankCores {
  std::uint64_t host = 0;   // equal for the ranks of one node
  std::vector<bool> cores;  // by number: allowed
  int quota = 0;            // cores' worth of time that the node's ranks may use together
};

/// Threads for rank `mine`: its part of each core that it may run on, a core being shared evenly
/// by the ranks of the node that may run on it; no more than its part of the quota, and at least 1.
/// The same whether the ranks were bound to cores of their own or not.
int share_of_cores(const std::vector<RankCores>& ranks, std::size_t mine);

/// The same for this rank as the system has placed it. Collective over `world`.
int threads_per_rank(Communicator& world);

}  // namespace polymoe
