// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/nccl/nccl_library.h"

#include <memory>

#include "parallel/communication/communicator.h"
#include "parallel/communication/ledger.h"
#include "runtime/device.h"
#include "runtime/error.h"

namespace polymoe::nccl {
namespace {

[[noreturn]] void refuse() { throw DeviceError("this build of polymoe has no NCCL"); }

}  // namespace

bool available() { return false; }
std::string version() { refuse(); }
std::unique_ptr<Communicator> make_communicator(std::unique_ptr<Communicator>, Device,
                                                const std::string&, double, Ledger*) {
  refuse();
}

}  // namespace polymoe::nccl
