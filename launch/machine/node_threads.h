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
/// It does not depend on whether the ranks were bound to cores of their own.
int share_of_cores(const std::vector<RankCores>& ranks, std::size_t mine);

/// This rank's share as the system has placed it. Collective over `world`.
int threads_per_rank(Communicator& world);

/// Gives each rank a number that is equal for the ranks of one node. Collective over `world`.
std::vector<std::uint64_t> hosts_of_ranks(Communicator& world);

/// Takes back what the environment may have told OpenMP and products cannot live with. Before the
/// first of them.
void settle_openmp();

/// At most as many threads as OpenMP may start here (OMP_THREAD_LIMIT).
int allowed_threads(int wanted);

/// Cores that a process may run on; 0 where the system does not tell.
int cores_of_process(int process);

/// A line for the log where a launcher's binding leaves cores idle; empty where it does not.
std::string binding_hint(int own_cores, int launcher_cores, int ranks_on_node);

}  // namespace polymoe
