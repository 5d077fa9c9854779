// SPDX-License-Identifier: Apache-2.0
#include <system_error>
#include <utility>

#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/shard_writer.h"
#include "parallel/checkpoint/stored_values.h"
#include "parallel/communication/checkpoint_exchange.h"
#include "runtime/buffer.h"
#include "runtime/error.h"
#include "runtime/files/file.h"

namespace polymoe {

namespace fs = std::filesystem;

void save_checkpoint(const fs::path& root, const CheckpointInfo& info,
                     const std::vector<TensorPiece>& pieces, Communicator& world,
                     const SaveOptions& options) {
  const fs::path target = root / checkpoint_name(info.step);
  const fs::path partial = partial_checkpoint(root, info.step);
  const auto fail_together = [&](const std::string& error) {
    if (!error.empty()) throw OutputFileError(target.string(), "not saved: " + error);
  };

  std::string error;
  if (world.rank() == 0) {
    error = error_of([&] {
      std::error_code ignored;  // what cannot be removed fails in the next line
      fs::remove_all(partial, ignored);
      make_directories(partial);
    });
  }
  fail_together(broadcast_text(error, 0, world));

  std::string shard;
  const fs::path path = partial / shard_name(world.rank(), world.size());
  error = error_of([&] {
    if (!options.refusal.empty()) throw Error(options.refusal);
    Stream host(Device::cpu());
    HostPassage passage(options.stream == nullptr ? host : *options.stream);
    ShardWriter file(path);
    for (const TensorPiece& piece : pieces) {
      file.add(piece, dtype_to_store(piece.data.dtype()), passage);
      tell(options.observer, SavePoint::writing);
    }
    shard = file.finish();
  });
  if (!error.empty()) {
    // HDF5 keeps a file open that it could not write: removing it would not free the full disk.
    std::error_code ignored;
    fs::resize_file(path, 0, ignored);
  }
  // The first character tells a description from an error.
  const std::vector<std::string> shards =
      gather_text(error.empty() ? "+" + shard : "-" + error, world);

  error.clear();
  if (world.rank() == 0) {
    error = error_of([&] {
      std::vector<std::string> descriptions;
      for (std::size_t rank = 0; rank < shards.size(); ++rank) {
        if (shards[rank][0] == '-') {
          throw Error("rank " + std::to_string(rank) + ": " + shards[rank].substr(1));
        }
        descriptions.push_back(shards[rank].substr(1));
      }
      commit_checkpoint(root, info, descriptions, options.observer);
    });
    if (!error.empty()) {
      std::error_code ignored;  // what stays has no manifest and counts as abandoned
      fs::remove_all(partial, ignored);
    }
  }
  fail_together(broadcast_text(error, 0, world));
}

void prune_checkpoints(const fs::path& root, std::int64_t keep, Communicator& world,
                       SaveObserver* observer) {
  std::string error;
  if (world.rank() == 0) error = error_of([&] { prune_checkpoints(root, keep, observer); });
  error = broadcast_text(error, 0, world);
  if (!error.empty()) throw OutputFileError(root.string(), "old checkpoints stay: " + error);
}

void write_checkpoint(const fs::path& root, const CheckpointInfo& info,
                      const std::function<std::vector<TensorPiece>(int rank)>& pieces_of,
                      const std::function<void(const TensorPiece& piece)>& fill) {
  const fs::path partial = partial_checkpoint(root, info.step);
  std::error_code ignored;  // what cannot be removed fails in the next line
  fs::remove_all(partial, ignored);
  make_directories(partial);
  try {
    Stream stream(Device::cpu());
    HostPassage passage(stream);
    std::vector<std::string> shards;
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
    fs::remove_all(partial, ignored);  // what stays has no manifest and counts as abandoned
    throw;
  }
}

}  // namespace polymoe
