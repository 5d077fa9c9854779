// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <system_error>
#include <vector>

#include "parallel/checkpoint/directory.h"
#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/save_observer.h"
#include "parallel/checkpoint/shard_writer.h"
#include "parallel/checkpoint/stored_values.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/stream.h"

namespace polymoe {

namespace fs = std::filesystem;

namespace {

/// Writes this rank's file.
ShardDescription write_shard(const fs::path& path, const std::vector<TensorPiece>& pieces,
                             const SaveOptions& options) {
  if (!options.refusal.empty()) throw Error(options.refusal);
  Stream host(Device::cpu());
  HostPassage passage(options.stream == nullptr ? host : *options.stream);
  ShardWriter file(path);
  for (const TensorPiece& piece : pieces) {
    file.add(piece, dtype_to_store(piece.held().dtype()), passage);
    tell(options.observer, SavePoint::writing);
  }
  return file.finish();
}

void remove_partial(const fs::path& partial) {
  std::error_code ignored;  // what stays has no manifest and counts as abandoned
  fs::remove_all(partial, ignored);
}

}  // namespace

void save_checkpoint(const fs::path& root, const CheckpointInfo& info,
                     const std::vector<TensorPiece>& pieces, Communicator& world,
                     const SaveOptions& options) {
  const fs::path partial = partial_checkpoint(root, info.step);
  try {
    on_first_rank(world, [&] {
      remove_partial(partial);  // what cannot be removed fails in the next line
      make_directories(partial);
    });
    ShardDescription shard;
    on_every_rank(world, [&] {
      const fs::path path = partial / shard_name(world.rank(), world.size());
      try {
        shard = write_shard(path, pieces, options);
      } catch (const std::exception& error) {
        // HDF5 keeps a file open that it could not write: removing it would not free the full disk.
        std::error_code ignored;
        fs::resize_file(path, 0, ignored);
        throw Error("rank " + std::to_string(world.rank()) + ": " + error.what());
      }
    });
    const std::vector<std::string> packed = gather_text(shard.pack(), world);
    on_first_rank(world, [&] {
      std::vector<ShardDescription> shards;
      for (const std::string& of_rank : packed) shards.push_back(ShardDescription::unpack(of_rank));
      commit_checkpoint(root, info, shards, options.observer);
    });
  } catch (const CommunicationError&) {
    throw;  // peers may still be writing
  } catch (const std::exception& error) {
    if (world.rank() == 0) remove_partial(partial);
    throw OutputFileError((root / checkpoint_name(info.step)).string(),
                          std::string("not saved: ") + error.what());
  }
}

void prune_checkpoints(const fs::path& root, std::int64_t keep, Communicator& world,
                       SaveObserver* observer, std::int64_t beside) {
  try {
    on_first_rank(world, [&] { prune_checkpoints(root, keep, observer, beside); });
  } catch (const CommunicationError&) {
    throw;
  } catch (const std::exception& error) {
    throw OutputFileError(root.string(), std::string("old checkpoints stay: ") + error.what());
  }
}

void write_checkpoint(const fs::path& root, const CheckpointInfo& info,
                      const std::function<std::vector<TensorPiece>(int rank)>& pieces_of,
                      const std::function<void(const TensorPiece& piece)>& fill) {
  const fs::path partial = partial_checkpoint(root, info.step);
  remove_partial(partial);  // what cannot be removed fails in the next line
  make_directories(partial);
  try {
    Stream stream(Device::cpu());
    HostPassage passage(stream);
    std::vector<ShardDescription> shards;
    for (int rank = 0; rank < info.ranks; ++rank) {
      ShardWriter file(partial / shard_name(rank, info.ranks));
      for (TensorPiece& piece : pieces_of(rank)) {
        const OwnedTensor memory(piece.data.shape(), piece.data.dtype(), Device::cpu());
        piece.data = *memory;
        fill(piece);
        file.add(piece, piece.data.dtype(), passage);
      }
      shards.push_back(file.finish());
    }
    commit_checkpoint(root, info, shards);
  } catch (...) {
    remove_partial(partial);
    throw;
  }
}

}  // namespace polymoe
