// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "launch/examining/examination.h"
#include "parallel/communication/communicator.h"
#include "runtime/device.h"

namespace polymoe {

/// Who examines.
struct Examiner {
  int rank_on_node = 0;
  int ranks_on_node = 1;
  Device device = Device::cpu();
  int threads = 1;
};

/// Adds what this rank's system says of itself: versions of program, libraries, kernel and driver,
/// processor or GPU, cores and threads, memory, limits of the process (memory, locked memory, open
/// files), and how ranks found each other (PMIx).
void examine_system(const Examiner& examiner, Examination& found);

/// Adds whether the file system of `directory` has the calls that checkpoints and locks make, is
/// the same one on all nodes and keeps the nodes' locks apart; how fast it writes, reads and syncs.
/// The first rank of each node works, the others wait. Leaves nothing behind. Collective over
/// `world`; what fails is a problem, nothing is thrown but CommunicationError.
void examine_files(const std::filesystem::path& directory, int rounds, const Examiner& examiner,
                   Communicator& world, Examination& found);

}  // namespace polymoe
