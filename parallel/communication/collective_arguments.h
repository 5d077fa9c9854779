// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "runtime/tensor.h"

namespace polymoe {

// The checks that every communicator makes before an operation. `place` is how a message starts;
// each throws InvalidArgument.

/// "all_reduce in group world (rank 0 of 2): ".
std::string place_of(const char* operation, const std::string& group, int rank, int size);

/// What a reduction takes: f32 and f64, or i64 too.
enum class Reducible : std::uint8_t { reals, reals_and_integers };
void check_reducible(const std::string& place, DType dtype, Reducible allowed);

/// The elements divide into `ranks` equal slices.
void check_slices(const std::string& place, const Tensor& values, int ranks);

/// One count for each rank on both sides, none negative, not more rows than the tensors have, rows
/// alike, and as many from this rank to itself as it takes from itself.
void check_all_to_all(const std::string& place, const Tensor& send,
                      std::span<const std::int64_t> send_rows, const Tensor& receive,
                      std::span<const std::int64_t> receive_rows, int rank, int ranks);

/// Another rank of the group.
void check_peer(const std::string& place, int peer, int rank, int ranks);

void check_root(const std::string& place, int root, int ranks);

}  // namespace polymoe
