// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "parallel/communication/communicator.h"
#include "runtime/context.h"
#include "runtime/dtype.h"

namespace polymoe {

// What the machine can do: the ceilings that kernels and steps are measured against. Each is
// measured on all ranks at the same time, with the threads that each of them has, as the best of a
// few rounds, and summed over ranks; a rank's memory for it comes from the arena. Collective over
// `world`.

/// A product [extent, extent] x [extent, extent] of one dtype.
struct SquareProduct {
  std::int64_t extent = 0;
  DType dtype = DType::f32;
};

/// Operations per second of such products of random numbers.
double measure_product_rate(Communicator& world, const SquareProduct& product,
                            ExecutionContext& context);

/// Bytes per second, reads and writes counted, of copying `bytes` within each rank's memory.
double measure_copy_bandwidth(Communicator& world, std::int64_t bytes, ExecutionContext& context);

/// Bytes per second of reading `bytes` within each rank's memory.
double measure_read_bandwidth(Communicator& world, std::int64_t bytes, ExecutionContext& context);

/// Bytes per second that ranks send to other ranks when each sends `bytes` in equal parts to all;
/// 0 for a rank without peers.
double measure_all_to_all_bandwidth(Communicator& world, std::int64_t bytes,
                                    ExecutionContext& context);

/// What a rank's link does while all ranks use theirs: bytes that a rank sends per second in
/// messages of the size that was measured, and what the smallest message takes.
struct LinkRates {
  double all_to_all = 0.0;
  double reduce_scatter = 0.0;  // (ranks - 1) / ranks of the tensor are sent
  double all_gather = 0.0;      // likewise
  double latency = 0.0;         // seconds, of an all-to-all

  bool known() const { return all_to_all > 0.0; }
};

/// Measures it with tensors of `bytes`; all zero for a rank without peers.
LinkRates measure_link(Communicator& world, std::int64_t bytes, ExecutionContext& context);

}  // namespace polymoe
