// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "parallel/communication/collective.h"

namespace polymoe {

// The checks that every communicator makes before an operation. `place` is how a message starts;
// they throw InvalidArgument.

/// "all_reduce in group world (rank 0 of 2): ".
std::string place_of(const char* operation, const std::string& group, int rank, int size);

/// What holds for an operation of rank `rank` among `ranks`:
///   a reduction takes f32 and f64, all_reduce i64 too
///   reduce_scatter, all_gather: the elements divide into equal slices
///   all_to_all: one count for each rank on both sides, none negative, not more rows than the
///     tensors have, rows alike, and as many from this rank to itself as it takes from itself
///   exchange: with other ranks of the group
///   broadcast: the root is of the group
void check_arguments(const std::string& place, const Collective& operation, int rank, int ranks);

}  // namespace polymoe
