// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "parallel/communication/transport.h"

namespace polymoe::mpi {

/// A duplicate of MPI_COMM_WORLD. Collective over it. Messages go by non-blocking calls that are
/// polled, so that a lost peer ends in a CommunicationError and a waiting rank leaves the cores to
/// others.
std::unique_ptr<Transport> make_world_transport();

}  // namespace polymoe::mpi
