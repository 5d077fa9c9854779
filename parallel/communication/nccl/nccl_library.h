// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "parallel/communication/communicator.h"
#include "parallel/communication/ledger.h"
#include "runtime/device.h"

/// The seam around NCCL: nccl_communicator.cpp in a build with it, no_nccl.cpp in one without.
namespace polymoe::nccl {

/// Whether this build has NCCL.
bool available();
/// "2.28.9", of the library that is loaded. Throws DeviceError in a build without NCCL.
std::string version();

/// A NcclCommunicator (nccl_communicator.h) of the ranks of `host`, which it owns. Collective;
/// every rank has a GPU of its own. `ledger`, where its operations are written down, outlives it;
/// null = nowhere. Throws CommunicationError when it cannot be formed within the timeout,
/// DeviceError in a build without NCCL.
std::unique_ptr<Communicator> make_communicator(std::unique_ptr<Communicator> host, Device device,
                                                const std::string& group, double timeout_seconds,
                                                Ledger* ledger);

}  // namespace polymoe::nccl
