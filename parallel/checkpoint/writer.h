// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/save_observer.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/communicator.h"
#include "runtime/stream.h"

namespace polymoe {

/// What one rank brings to a save beside its pieces.
struct SaveOptions {
  Stream* stream = nullptr;  // of the GPU on which pieces lie; null = all are on the CPU
  SaveObserver* observer = nullptr;
  std::string refusal = {};  // not empty: why this rank cannot take part; then nothing is saved
};

/// Writes `root/step-XXXXXXXX`: one HDF5 shard per rank, the view of them, and manifest.json.
/// Collective; all ranks see one file system, rank 0 gives the info. The pieces of all ranks
/// together cover each tensor once. The directory appears under its name only when every file is
/// complete and synced, in place of an older one of that step; on failure every rank throws
/// OutputFileError, the same one, and what was there before stays.
void save_checkpoint(const std::filesystem::path& root, const CheckpointInfo& info,
                     const std::vector<TensorPiece>& pieces, Communicator& world,
                     const SaveOptions& options = {});

/// Writes a checkpoint by one process for all ranks of a layout, one piece in memory at a time:
/// pieces_of(rank) describes them with tensors on any device, meta among them, whose dtype is the
/// one that is stored, and fill(piece) puts the values into `piece.data`, which then lies in host
/// memory. Throws OutputFileError, and what the functions throw; then nothing is left.
void write_checkpoint(const std::filesystem::path& root, const CheckpointInfo& info,
                      const std::function<std::vector<TensorPiece>(int rank)>& pieces_of,
                      const std::function<void(const TensorPiece& piece)>& fill);

}  // namespace polymoe
