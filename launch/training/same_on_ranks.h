// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "parallel/communication/communicator.h"
#include "runtime/device.h"

namespace polymoe {

/// What has to be the same on all ranks of a run, as keys and values in a fixed order.
using RankFacts = std::vector<std::pair<std::string, std::string>>;

/// This rank's program revision, its libraries, the MPI, the kind of device, every key of the
/// configuration but run.threads, tokens, bytes and a hash of some blocks of every token file,
/// those of later stages too. Throws InputFileError.
RankFacts facts_of_rank(const Config& config, Device device);

/// Throws InvalidArgument on a rank whose facts are not those of rank 0, naming the first key that
/// differs and both values. Collective; a rank that throws ends the others by ending the job.
void check_same_as_first(const RankFacts& own, Communicator& world);

}  // namespace polymoe
