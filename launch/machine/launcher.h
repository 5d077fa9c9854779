// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace polymoe {

/// What the environment tells of whoever started this process, before MPI starts.
struct Launcher {
  /// Whether MPI has to be asked who else there is. A process by itself does without: MPI_Init
  /// starts a daemon for it, and fails inside `srun --pty bash`.
  bool needs_mpi = false;
  bool by_mpirun = false;  // which may bind processes to cores
  int rank = 0;            // as far as it is told
  int ranks = 1;
  /// That the launcher started several processes which will not find each other, and what to do;
  /// empty where they will.
  std::string problem = {};
};

/// Reads the variables of Open MPI's mpirun (OMPI_COMM_WORLD_*), of PMIx (PMIX_RANK), of older
/// process managers (PMI_*) and of SLURM's srun (SLURM_STEP_NUM_TASKS, SLURM_PROCID). `variable`
/// gives an environment variable's value, nothing where it is not set.
Launcher find_launcher(
    const std::function<std::optional<std::string>(const std::string& name)>& variable);

/// What started this process.
Launcher find_launcher();

}  // namespace polymoe
