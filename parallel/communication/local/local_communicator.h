// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "parallel/communication/communicator.h"

namespace polymoe {

/// The communicators of `size` ranks in this process, one for each: every rank is a thread of the
/// caller's. The reference for other communicators, and the one of a run with a single rank, which
/// needs no peer and starts no thread.
///
/// A communicator that is destroyed has left its group: peers that wait for it get a
/// CommunicationError, so a rank that fails ends the others too.
std::vector<std::unique_ptr<Communicator>> make_local_communicators(int size,
                                                                    double timeout_seconds);
std::vector<std::unique_ptr<Communicator>> make_local_communicators(int size);

}  // namespace polymoe
