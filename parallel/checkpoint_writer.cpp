// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <numeric>
#include <system_error>
#include <utility>

#include "parallel/checkpoint.h"
#include "parallel/checkpoint_shards.h"
#include "parallel/checkpoint_values.h"
#include "runtime/buffer.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

/// What `body` throws, as text; empty when it returns. Errors must not leave a rank before its
/// peers know: they would wait for it.
template <class Body>
std::string error_of(Body body) {
  try {
    body();
    return "";
  } catch (const std::exception& error) {
    return error.what()[0] == '\0' ? "unknown error" : error.what();
  }
}

/// The text of every rank, on rank 0. Collective.
std::vector<std::string> gather_text(const std::string& text, Communicator& world) {
  Stream stream(Device::cpu());
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<std::int64_t> send_rows(ranks, 0), receive_rows(ranks, 0);
  send_rows[0] = static_cast<std::int64_t>(text.size());
  world.all_to_all_counts(send_rows, receive_rows);
  const std::int64_t total =
      std::accumulate(receive_rows.begin(), receive_rows.end(), std::int64_t{0});
  const OwnedTensor send({send_rows[0], 1}, DType::u8, Device::cpu());
  const OwnedTensor receive({total, 1}, DType::u8, Device::cpu());
  if (!text.empty()) std::memcpy(send->raw(), text.data(), text.size());
  world.all_to_all(*send, send_rows, *receive, receive_rows, stream);
  std::vector<std::string> texts(ranks);
  const char* next = static_cast<const char*>(receive->raw());
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const auto size = static_cast<std::size_t>(receive_rows[rank]);
    if (size > 0) texts[rank].assign(next, size);
    next += size;
  }
  return texts;
}

/// Rank 0's text, on every rank. Collective.
std::string broadcast_text(const std::string& text, Communicator& world) {
  Stream stream(Device::cpu());
  const OwnedTensor size({1}, DType::i64, Device::cpu());
  *size->data<std::int64_t>() = static_cast<std::int64_t>(text.size());
  world.broadcast(*size, 0, stream);
  const std::int64_t count = *size->data<std::int64_t>();
  if (count == 0) return "";
  const OwnedTensor bytes({count}, DType::u8, Device::cpu());
  if (world.rank() == 0) std::memcpy(bytes->raw(), text.data(), text.size());
  world.broadcast(*bytes, 0, stream);
  return {static_cast<const char*>(bytes->raw()), static_cast<std::size_t>(count)};
}

}  // namespace

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
  fail_together(broadcast_text(error, world));

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
  fail_together(broadcast_text(error, world));
}

void prune_checkpoints(const fs::path& root, std::int64_t keep, Communicator& world,
                       SaveObserver* observer) {
  std::string error;
  if (world.rank() == 0) error = error_of([&] { prune_checkpoints(root, keep, observer); });
  error = broadcast_text(error, world);
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
