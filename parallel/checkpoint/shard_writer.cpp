// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/shard_writer.h"

#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/save_observer.h"
#include "parallel/checkpoint/stored_values.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/view.h"
#include "parallel/communication/packed.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/hash.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

fs::path with_suffix(fs::path path, const char* suffix) {
  path += suffix;
  return path;
}

/// The manifest of the shards that the ranks described.
CheckpointManifest make_manifest(const CheckpointInfo& info,
                                 const std::vector<ShardDescription>& shards) {
  CheckpointManifest manifest;
  manifest.info = info;
  manifest.info.ranks = static_cast<int>(shards.size());
  std::map<std::string, CheckpointManifest::StoredTensor> tensors;
  for (std::size_t rank = 0; rank < shards.size(); ++rank) {
    const ShardDescription& shard = shards[rank];
    manifest.files.push_back(
        {shard_name(static_cast<int>(rank), manifest.info.ranks), shard.bytes, shard.xxh3});
    for (const ShardDescription::Piece& piece : shard.pieces) {
      const auto [found, is_new] = tensors.try_emplace(
          piece.name, CheckpointManifest::StoredTensor{piece.name, piece.shape, piece.dtype, {}});
      auto& tensor = found->second;
      if (!is_new && (tensor.shape != piece.shape || tensor.dtype != piece.dtype)) {
        throw InvalidArgument("tensor " + piece.name + " is " + name_of(piece.dtype) +
                              to_string(piece.shape) + " on rank " + std::to_string(rank) +
                              " and " + name_of(tensor.dtype) + to_string(tensor.shape) +
                              " on another");
      }
      if (piece.count == 0) continue;
      tensor.pieces.push_back({.file = static_cast<std::int64_t>(rank),
                               .dataset = piece.dataset,
                               .begin = piece.begin,
                               .count = piece.count,
                               .offset = piece.offset});
    }
  }
  for (auto& [name, tensor] : tensors) {
    std::sort(tensor.pieces.begin(), tensor.pieces.end(),
              [](const auto& a, const auto& b) { return a.begin < b.begin; });
    manifest.tensors.push_back(std::move(tensor));
  }
  manifest.check_cover();
  return manifest;
}

/// Gives the finished directory its name, in place of an older one of that name.
void put_in_place(const fs::path& partial, const fs::path& target) {
  std::error_code error;
  if (!fs::is_directory(target, error)) {
    rename_path(partial, target);
    return;
  }
  if (::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(partial, error);  // the old one; what stays of it is not a checkpoint
    return;
  }
  // File systems that cannot exchange two names: between the two steps the old one is found under
  // its other name (see newest_checkpoint).
  const fs::path replaced = with_suffix(target, ".replaced");
  fs::remove_all(replaced, error);
  rename_path(target, replaced);
  try {
    rename_path(partial, target);
  } catch (const OutputFileError&) {
    rename_path(replaced, target);
    throw;
  }
  fs::remove_all(replaced, error);
}

/// Writes the view beside the shards, and says what it is.
CheckpointManifest::File add_view(const fs::path& directory, const CheckpointManifest& manifest) {
  const fs::path path = directory / view_name;
  write_checkpoint_view(path, manifest);
  sync_file(path);
  return {view_name, size_of_file(path), xxh3_of_file(path)};
}

}  // namespace

fs::path partial_checkpoint(const fs::path& root, std::int64_t step) {
  return with_suffix(root / checkpoint_name(step), ".partial");
}

std::string ShardDescription::pack() const {
  Packer packer;
  packer.number(bytes).text(xxh3).number(static_cast<std::int64_t>(pieces.size()));
  for (const Piece& piece : pieces) {
    packer.text(piece.name).number(piece.shape.rank());
    for (int i = 0; i < piece.shape.rank(); ++i) packer.number(piece.shape[i]);
    packer.text(name_of(piece.dtype)).text(piece.dataset);
    packer.number(piece.begin).number(piece.count).number(piece.offset);
  }
  return packer.take();
}

ShardDescription ShardDescription::unpack(std::string_view bytes) {
  Unpacker unpacker(bytes);
  ShardDescription shard;
  shard.bytes = unpacker.number();
  shard.xxh3 = unpacker.text();
  for (std::int64_t left = unpacker.number(); left > 0; --left) {
    Piece piece;
    piece.name = unpacker.text();
    std::vector<std::int64_t> extents;
    for (std::int64_t rank = unpacker.number(); rank > 0; --rank)
      extents.push_back(unpacker.number());
    piece.shape = shape_of(extents);
    piece.dtype = stored_dtype(unpacker.text());
    piece.dataset = unpacker.text();
    piece.begin = unpacker.number();
    piece.count = unpacker.number();
    piece.offset = unpacker.number();
    shard.pieces.push_back(std::move(piece));
  }
  if (!unpacker.done()) throw CommunicationError("a description of a shard is too long");
  return shard;
}

ShardWriter::ShardWriter(const fs::path& path) : path_(path), file_(path) {}

void ShardWriter::add(const TensorPiece& piece, DType stored, HostPassage& passage) {
  // An empty piece has no dataset, but its tensor exists all the same.
  ShardDescription::Piece added{.name = piece.name,
                                .shape = piece.shape,
                                .dtype = stored,
                                .dataset = piece.name + ":" + std::to_string(piece.begin),
                                .begin = piece.begin,
                                .count = piece.data.elements(),
                                .offset = 0};
  if (added.count > 0) {
    added.offset = file_.write(
        added.dataset, stored, added.count,
        [&](const Hdf5Writer::WritePart& write) { passage.write(piece.held(), stored, write); });
  }
  // After the write, whose refusal of a dtype names the file.
  added.dtype = stored_dtype(name_of(stored));
  description_.pieces.push_back(std::move(added));
}

ShardDescription ShardWriter::finish() {
  file_.close();
  // Hashed while the disk is busy.
  std::future<std::string> hash =
      std::async(std::launch::async, [path = path_] { return xxh3_of_file(path); });
  sync_file(path_);
  description_.bytes = size_of_file(path_);
  description_.xxh3 = hash.get();
  return std::move(description_);
}

void commit_checkpoint(const fs::path& root, const CheckpointInfo& info,
                       const std::vector<ShardDescription>& shards, SaveObserver* observer) {
  const fs::path partial = partial_checkpoint(root, info.step);
  CheckpointManifest manifest = make_manifest(info, shards);
  for (const auto& file : manifest.files) {
    // Another rank's file that this rank does not see lies on another file system.
    const std::int64_t bytes = size_of_file(partial / file.name);
    if (bytes != file.bytes) {
      throw OutputFileError(
          (partial / file.name).string(),
          "has " + std::to_string(bytes) + " bytes, its rank wrote " + std::to_string(file.bytes));
    }
  }
  manifest.view = add_view(partial, manifest);
  OutputFile file(partial / manifest_name);
  const std::string text = manifest.to_text();
  // What a reader would refuse or see changed must not be committed.
  if (CheckpointManifest::parse(text, file.path().string()).info.config != info.config) {
    throw InvalidArgument("the configuration is not UTF-8");
  }
  file.write(text);
  file.sync();
  file.close();
  sync_directory(partial);
  tell(observer, SavePoint::before_rename);
  put_in_place(partial, root / checkpoint_name(info.step));
  tell(observer, SavePoint::after_rename);
  sync_directory(root);
}

}  // namespace polymoe
