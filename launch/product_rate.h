// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "parallel/communicator.h"
#include "runtime/context.h"

namespace polymoe {

/// Operations per second of f32 matrix products [extent, extent] x [extent, extent], all ranks at
/// the same time with the threads that each of them has, summed over ranks: what a step's
/// operations are measured against. The best of a few rounds. Collective over `world`.
double measure_product_rate(Communicator& world, std::int64_t extent, ExecutionContext& context);

}  // namespace polymoe
