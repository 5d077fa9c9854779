// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "parallel/communication/communicator.h"

namespace polymoe {

/// Runs `body` on rank 0 alone and returns its text on every rank. What it throws there is thrown
/// on every rank, with the same class of error and the same message, so that all end alike.
/// Collective over `world`.
std::string on_first_rank(Communicator& world, const std::function<std::string()>& body);

}  // namespace polymoe
