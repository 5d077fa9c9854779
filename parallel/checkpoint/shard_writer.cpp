// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/shard_writer.h"

#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <future>
#include <map>
#include <system_error>
#include <utility>

#include "parallel/checkpoint/view.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/hash.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

fs::path with_suffix(fs::path path, const char* suffix) {
  path += suffix;
  return path;
}

/// The manifest of the shards that the ranks described.
CheckpointManifest make_manifest(const CheckpointInfo& info,
                                 const std::vector<std::string>& shards) {
  CheckpointManifest manifest;
  manifest.info = info;
  manifest.info.ranks = static_cast<int>(shards.size());
  std::map<std::string, CheckpointManifest::StoredTensor> tensors;
  for (std::size_t rank = 0; rank < shards.size(); ++rank) {
    const Json shard = parse_json(shards[rank], "rank " + std::to_string(rank));
    manifest.files.push_back({shard_name(static_cast<int>(rank), manifest.info.ranks),
                              shard.at("bytes").as_integer(), shard.at("xxh3").as_string()});
    for (const Json& piece : shard.at("tensors").items()) {
      std::vector<std::int64_t> extents;
      for (const Json& extent : piece.at("shape").items()) extents.push_back(extent.as_integer());
      CheckpointManifest::StoredTensor tensor{piece.at("name").as_string(),
                                              shape_of(extents),
                                              stored_dtype(piece.at("dtype").as_string()),
                                              {}};
      const auto [found, is_new] = tensors.try_emplace(tensor.name, tensor);
      if (!is_new && (found->second.shape != tensor.shape || found->second.dtype != tensor.dtype)) {
        throw InvalidArgument("tensor " + tensor.name + " is " + name_of(tensor.dtype) +
                              to_string(tensor.shape) + " on rank " + std::to_string(rank) +
                              " and " + name_of(found->second.dtype) +
                              to_string(found->second.shape) + " on another");
      }
      if (piece.at("count").as_integer() == 0) continue;
      found->second.pieces.push_back({.file = static_cast<std::int64_t>(rank),
                                      .dataset = piece.at("dataset").as_string(),
                                      .begin = piece.at("begin").as_integer(),
                                      .count = piece.at("count").as_integer(),
                                      .offset = piece.at("offset").as_integer()});
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
  const fs::path path = directory / CheckpointManifest::view_name;
  write_checkpoint_view(path, manifest);
  sync_file(path);
  return {CheckpointManifest::view_name, size_of_file(path), xxh3_of_file(path)};
}

}  // namespace

fs::path partial_checkpoint(const fs::path& root, std::int64_t step) {
  return with_suffix(root / checkpoint_name(step), ".partial");
}

ShardWriter::ShardWriter(const fs::path& path)
    : path_(path), file_(path), tensors_(Json::array()) {}

void ShardWriter::add(const TensorPiece& piece, DType stored, HostPassage& passage) {
  const std::int64_t count = piece.data.elements();
  Json shape = Json::array();
  for (int i = 0; i < piece.shape.rank(); ++i) shape.add(piece.shape[i]);
  // An empty piece has no dataset, but its tensor exists all the same.
  const std::string dataset = piece.name + ":" + std::to_string(piece.begin);
  std::int64_t offset = 0;
  if (count > 0) {
    offset = file_.write(dataset, stored, count, [&](const Hdf5Writer::WritePart& write) {
      passage.write(piece.data, stored, write);
    });
  }
  tensors_.add(Json::object()
                   .set("name", piece.name)
                   .set("shape", std::move(shape))
                   .set("dtype", name_of(stored_dtype(name_of(stored))))
                   .set("dataset", dataset)
                   .set("begin", piece.begin)
                   .set("count", count)
                   .set("offset", offset));
}

std::string ShardWriter::finish() {
  file_.close();
  // Hashed while the disk is busy.
  std::future<std::string> hash = std::async(std::launch::async, xxh3_of_file, path_);
  sync_file(path_);
  return Json::object()
      .set("bytes", size_of_file(path_))
      .set("xxh3", hash.get())
      .set("tensors", std::move(tensors_))
      .dump();
}

void commit_checkpoint(const fs::path& root, const CheckpointInfo& info,
                       const std::vector<std::string>& shards, SaveObserver* observer) {
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
  OutputFile file(partial / CheckpointManifest::file_name);
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
