// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "parallel/checkpoint/held_values.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/stored_values.h"

namespace polymoe {

/// Elements of a stored piece and where they are wanted.
struct ShardTransfer {
  const CheckpointManifest::Piece* from;
  DType stored;
  std::int64_t begin;  // first element, within the piece
  HeldValues to;       // flat; stored values can be read as its dtype
};

/// Fills the tensors of all transfers from a shard whose pieces have offsets, without the HDF5
/// library. Reads the whole file once and hashes what passes. Throws InputFileError when the hash
/// is not the expected one; the tensors have been written to by then.
void read_shard_and_hash(const std::filesystem::path& path,
                         const CheckpointManifest::File& expected,
                         const std::vector<ShardTransfer>& transfers, HostPassage& passage);

/// Reads what is wanted of a shard whose hash has been checked.
void read_shard(const std::filesystem::path& path, const std::vector<ShardTransfer>& transfers,
                HostPassage& passage);

/// Reads it through the HDF5 library, for pieces without offsets.
void read_shard_by_hdf5(const std::filesystem::path& path,
                        const std::vector<ShardTransfer>& transfers, HostPassage& passage);

/// Throws InputFileError unless `found` is the file's hash.
void check_hash(const std::filesystem::path& path, const CheckpointManifest::File& expected,
                const std::string& found);

}  // namespace polymoe
