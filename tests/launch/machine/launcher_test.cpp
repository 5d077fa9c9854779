// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/launcher.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace polymoe {
namespace {

Launcher with(const std::map<std::string, std::string>& environment) {
  return find_launcher([&](const std::string& name) -> std::optional<std::string> {
    const auto found = environment.find(name);
    if (found == environment.end()) return std::nullopt;
    return found->second;
  });
}

TEST(LauncherTest, AProcessByItselfNeedsNoMpi) {
  EXPECT_FALSE(with({}).needs_mpi);
  EXPECT_FALSE(with({{"OMPI_COMM_WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}}).needs_mpi);
  // srun --pty bash, with PMIx or without; the script of a batch job of several tasks.
  EXPECT_FALSE(with({{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}}).needs_mpi);
  EXPECT_FALSE(with({{"SLURM_STEP_NUM_TASKS", "1"}, {"PMIX_RANK", "0"}}).needs_mpi);
  const Launcher script = with({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}});
  EXPECT_FALSE(script.needs_mpi);
  EXPECT_EQ(script.ranks, 1);
  EXPECT_EQ(script.problem, "");
}

TEST(LauncherTest, RanksAreKnownBeforeMpiStarts) {
  // mpirun inside an allocation starts its daemons by srun: its own variables count.
  const Launcher mpirun = with({{"OMPI_COMM_WORLD_SIZE", "4"},
                                {"OMPI_COMM_WORLD_RANK", "2"},
                                {"PMIX_RANK", "2"},
                                {"SLURM_STEP_NUM_TASKS", "2"}});
  EXPECT_TRUE(mpirun.needs_mpi);
  EXPECT_EQ(mpirun.rank, 2);
  EXPECT_EQ(mpirun.ranks, 4);
  const Launcher srun = with({{"PMIX_RANK", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}});
  EXPECT_TRUE(srun.needs_mpi);
  EXPECT_EQ(srun.rank, 1);
  EXPECT_EQ(srun.ranks, 2);
  EXPECT_EQ(srun.problem, "");
}

TEST(LauncherTest, TasksThatDoNotKnowOfEachOtherAreRefused) {
  const Launcher alone = with({{"SLURM_STEP_NUM_TASKS", "3"}, {"SLURM_PROCID", "1"}});
  EXPECT_FALSE(alone.needs_mpi);
  EXPECT_EQ(alone.rank, 1);
  EXPECT_NE(alone.problem.find("3 tasks"), std::string::npos) << alone.problem;
  EXPECT_NE(alone.problem.find("--mpi=pmix"), std::string::npos) << alone.problem;
}

}  // namespace
}  // namespace polymoe
