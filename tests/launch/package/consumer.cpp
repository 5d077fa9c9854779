// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "launch/step/memory_plan.h"

int main(int, char** argv) {
  const polymoe::Config config = polymoe::read_config(argv[1], {});
  const polymoe::MemoryPlan plan =
      polymoe::plan_memory(config, {.ranks = config.parallel.expert, .threads = 1});
  std::printf("%lld\n", static_cast<long long>(plan.total_parameters));
  return 0;
}
