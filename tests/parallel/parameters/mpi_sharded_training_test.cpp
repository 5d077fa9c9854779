// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "tests/parallel/parameters/sharded_training_checks.h"
#include "tests/support/mpi_world.h"

namespace polymoe {
namespace {

TEST(ShardedTraining, EqualsPlainLoopsOnOneRankUnderEveryExpertParallelSize) {
  const int ranks = mpi_environment().size();
  for (int expert_parallel = 1; expert_parallel <= ranks; expert_parallel *= 2) {
    test::check_sharded_training(mpi_environment().make_world(60.0), expert_parallel);
  }
}

TEST(ShardedTraining, NormCountsEachParameterOnce) {
  const int ranks = mpi_environment().size();
  for (int expert_parallel = 1; expert_parallel <= ranks; expert_parallel *= 2) {
    test::check_norm_counts_each_parameter_once(mpi_environment().make_world(60.0),
                                                expert_parallel);
  }
}

}  // namespace
}  // namespace polymoe
