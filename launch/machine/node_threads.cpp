// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/node_threads.h"

#include <fmt/core.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "parallel/communication/communicator.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/random.h"
#include "runtime/stream.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

constexpr std::int64_t words = CPU_SETSIZE / 64;
constexpr std::int64_t words_per_rank = 2 + words;  // host, quota, mask

/// The first of the hardware threads of one core that `cpu` belongs to: it stands for the core,
/// since a matrix product gains nothing from a second thread on it.
int core_of(int cpu) {
  std::ifstream siblings("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                         "/topology/thread_siblings_list");
  int first = cpu;
  return siblings >> first && first >= 0 && first < CPU_SETSIZE ? first : cpu;
}

}  // namespace

int share_of_cores(const std::vector<RankCores>& ranks, std::size_t mine) {
  const RankCores& own = ranks[mine];
  double share = 0.0;
  int allowed = 0;
  for (std::size_t core = 0; core < own.cores.size(); ++core) {
    if (!own.cores[core]) continue;
    ++allowed;
    const auto sharers = std::count_if(ranks.begin(), ranks.end(), [&](const RankCores& rank) {
      return rank.host == own.host && core < rank.cores.size() && rank.cores[core];
    });
    share += 1.0 / static_cast<double>(sharers);
  }
  if (own.quota < allowed) {
    const auto neighbours = std::count_if(
        ranks.begin(), ranks.end(), [&](const RankCores& rank) { return rank.host == own.host; });
    share = std::min(share, static_cast<double>(own.quota) / static_cast<double>(neighbours));
  }
  // Thirds that add up to a whole must not lose it to rounding.
  return std::max(1, static_cast<int>(share + 1e-6));
}

void settle_openmp() {
  // OpenBLAS waits for as many threads as OpenMP promises; these settings of the environment break
  // that promise (OMP_DYNAMIC, OMP_MAX_ACTIVE_LEVELS).
  omp_set_dynamic(0);
  if (omp_get_max_active_levels() < 1) omp_set_max_active_levels(1);
}

int allowed_threads(int wanted) { return std::min(wanted, omp_get_thread_limit()); }

std::string binding_hint(int own_cores, int launcher_cores, int ranks_on_node) {
  if (own_cores * ranks_on_node >= launcher_cores) return "";
  return fmt::format(
      "bound to {} of the {} cores that its launcher has, with {} here: the others are idle; "
      "launch/mpirun/run shares them out, as does mpirun --map-by slot:PE={} --bind-to core",
      own_cores, launcher_cores,
      ranks_on_node == 1 ? "1 rank" : fmt::format("{} ranks", ranks_on_node),
      launcher_cores / ranks_on_node);
}

int cores_of_process(int process) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(process, sizeof mask, &mask) != 0) return 0;
  std::set<int> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &mask)) cores.insert(core_of(cpu));
  return static_cast<int>(cores.size());
}

std::vector<std::uint64_t> hosts_of_ranks(Communicator& world) {
  const OwnedTensor gathered({world.size()}, DType::i64, Device::cpu());
  gathered->data<std::int64_t>()[world.rank()] = static_cast<std::int64_t>(hash_of(host_name()));
  Stream stream(Device::cpu());
  world.all_gather(*gathered, stream);
  const auto* const first = gathered->data<std::int64_t>();
  return {first, first + world.size()};
}

int threads_per_rank(Communicator& world) {
  const OwnedTensor gathered({world.size(), words_per_rank}, DType::i64, Device::cpu());
  std::int64_t* own = gathered->data<std::int64_t>() + world.rank() * words_per_rank;
  own[0] = static_cast<std::int64_t>(hash_of(host_name()));
  own[1] = usable_cores();
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) != 0)  // more cores than the mask has bits
    for (int cpu = 0; cpu < std::min(usable_cores(), CPU_SETSIZE); ++cpu) CPU_SET(cpu, &mask);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    const int core = core_of(cpu);
    own[2 + core / 64] |= std::int64_t{1} << (core % 64);
  }
  Stream stream(Device::cpu());
  world.all_gather(*gathered, stream);

  std::vector<RankCores> ranks;
  for (int rank = 0; rank < world.size(); ++rank) {
    const std::int64_t* from = gathered->data<std::int64_t>() + rank * words_per_rank;
    RankCores cores{.host = static_cast<std::uint64_t>(from[0]),
                    .cores = std::vector<bool>(CPU_SETSIZE),
                    .quota = static_cast<int>(from[1])};
    for (int core = 0; core < CPU_SETSIZE; ++core)
      cores.cores[static_cast<std::size_t>(core)] = (from[2 + core / 64] >> (core % 64)) & 1;
    ranks.push_back(std::move(cores));
  }
  return allowed_threads(share_of_cores(ranks, static_cast<std::size_t>(world.rank())));
}

}  // namespace polymoe
