// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/expert_nodes.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "launch/config/config.h"
#include "launch/machine/node_threads.h"
#include "parallel/communication/communicator.h"

namespace polymoe {

int ranks_that_share_a_node(std::span<const std::uint64_t> hosts, int expert_parallel) {
  const auto one_host = [&](std::size_t begin, std::size_t count) {
    const auto part = hosts.subspan(begin, count);
    return std::ranges::all_of(part, [&](std::uint64_t host) { return host == part.front(); });
  };
  for (int n = expert_parallel; n > 1; --n) {
    if (expert_parallel % n != 0) continue;
    const auto count = static_cast<std::size_t>(n);
    bool all = true;
    for (std::size_t begin = 0; all && begin + count <= hosts.size(); begin += count)
      all = one_host(begin, count);
    if (all) return n;
  }
  return 1;
}

int node_ranks_of(const ParallelConfig& parallel, Communicator& world) {
  if (parallel.expert_node > 0) return parallel.expert_node;
  const std::vector<std::uint64_t> hosts = hosts_of_ranks(world);
  return ranks_that_share_a_node(hosts, parallel.expert);
}

}  // namespace polymoe
