// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>

#include "parallel/communication/communicator.h"
#include "parallel/communication/ledger.h"
#include "runtime/device.h"

namespace polymoe {

/// Where one rank computes.
struct RankPlace {
  DeviceType type = DeviceType::cpu;
  std::string node;     // host name
  std::string gpu;      // what tells the GPU apart on its node, the same in every process; or empty
  std::string problem;  // why the rank has no place, or empty
};

enum class DeviceTransport : std::uint8_t {
  host,    // the host's communicator serves host memory and nothing else is needed
  nccl,    // every rank has a GPU of its own
  staged,  // through page-locked host memory
};

/// How the ranks of these places exchange what lies on their devices: the same answer on each.
/// Throws DeviceError when a rank has no device, naming it; InvalidArgument when some ranks compute
/// on GPUs and others do not, or when ranks share a GPU without `share_devices`, naming node, ranks
/// and number of GPUs.
DeviceTransport choose_transport(std::span<const RankPlace> ranks, bool share_devices,
                                 bool with_nccl);

struct DeviceWorld {
  std::unique_ptr<Communicator> communicator;
  std::string transport;  // "host memory", "NCCL 2.28.9", "host memory with pinned staging"
};

struct DeviceWorldOptions {
  bool share_devices = false;      // whether several ranks may use one GPU
  double timeout_seconds = 600.0;  // of an operation among GPUs
  Ledger* ledger = nullptr;        // where operations among GPUs are written down; null = nowhere
};

/// A communicator for tensors on `device` and on the host, from one of the same ranks for host
/// memory, which it owns. Collective: every rank gets the same kind, or every rank throws.
/// Errors: those of choose_transport; CommunicationError when a peer does not answer.
DeviceWorld make_device_world(std::unique_ptr<Communicator> host, Device device,
                              const DeviceWorldOptions& options);

}  // namespace polymoe
