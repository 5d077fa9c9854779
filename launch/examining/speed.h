// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/examining/examination.h"
#include "launch/examining/place.h"
#include "parallel/communication/communicator.h"
#include "runtime/context.h"
#include "runtime/dtype.h"

namespace polymoe {

/// Memory that the measurements below take from the arena.
std::size_t examined_arena_bytes(Device device);

/// Adds this rank's rate of matrix products of `dtype` and its bandwidths of copying, as the best
/// of `rounds`, with all ranks at work. Collective over `world`.
void examine_rates(DType dtype, int rounds, Communicator& world, ExecutionContext& context,
                   Examination& found);

/// Adds bandwidth and latency of each pair of ranks, disjoint pairs at the same time, those within
/// a node apart from those between nodes, each told by its lower rank; of the exchange of all with
/// all, told by rank 0; and, as a problem, clocks of nodes more than a tenth of a second apart.
/// `node` is the same number on ranks of one node. Collective over `world`.
void examine_exchange(int rounds, std::int64_t node, bool first_on_node, Communicator& world,
                      ExecutionContext& context, Examination& found);

/// The partner of `rank` in round `round` of [0, rounds_of_pairs(ranks)): every pair meets once,
/// and a rank without one, where ranks are odd in number, gets itself.
int partner_of(int rank, int round, int ranks);
int rounds_of_pairs(int ranks);

}  // namespace polymoe
