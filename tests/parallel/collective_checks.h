// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace polymoe {

/// A test body that every rank of a group runs.
struct CollectiveCheck {
  const char* name;
  void (*run)(Communicator& world);
};

/// What holds for a communicator of any kind and size: the tests of each kind run all of them.
const std::vector<CollectiveCheck>& collective_checks();

}  // namespace polymoe
