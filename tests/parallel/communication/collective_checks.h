// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "parallel/communication/communicator.h"

namespace polymoe {

/// A communicator under test, where its tensors lie, and what its kind promises beyond the
/// contract.
struct CollectiveBed {
  Communicator& world;
  Device device = Device::cpu();
  bool rank_order = true;         // sums are formed in rank order, and a maximum keeps a NaN
  bool delivers_unwaited = true;  // a result that nobody waits for is there after a barrier
};

/// A test body that every rank of a group runs.
struct CollectiveCheck {
  const char* name;
  void (*run)(const CollectiveBed& bed);
};

/// What holds for a communicator of any kind and size: the tests of each kind run all of them.
const std::vector<CollectiveCheck>& collective_checks();

}  // namespace polymoe
