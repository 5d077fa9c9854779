// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <numeric>
#include <system_error>
#include <utility>

#include "parallel/checkpoint.h"
#include "runtime/buffer.h"
#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/hash.h"
#include "runtime/hdf5_file.h"
#include "runtime/json.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

fs::path with_suffix(fs::path path, const char* suffix) {
  path += suffix;
  return path;
}

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

/// Writes this rank's shard and returns its description as JSON, for rank 0.
std::string write_shard(const fs::path& path, const std::vector<TensorPiece>& pieces) {
  Json tensors = Json::array();
  Hdf5Writer file(path);
  for (const TensorPiece& piece : pieces) {
    const std::int64_t count = piece.data.elements();
    Json shape = Json::array();
    for (int i = 0; i < piece.shape.rank(); ++i) shape.add(piece.shape[i]);
    // An empty piece has no dataset, but its tensor exists all the same.
    const std::string dataset = piece.name + ":" + std::to_string(piece.begin);
    if (count > 0) file.write(dataset, piece.data);
    tensors.add(Json::object()
                    .set("name", piece.name)
                    .set("shape", std::move(shape))
                    .set("dtype", name_of(stored_dtype(name_of(piece.data.dtype()))))
                    .set("dataset", dataset)
                    .set("begin", piece.begin)
                    .set("count", count));
  }
  file.close();
  sync_file(path);
  return Json::object()
      .set("bytes", size_of_file(path))
      .set("xxh3", xxh3_of_file(path))
      .set("tensors", std::move(tensors))
      .dump();
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
      found->second.pieces.push_back(
          {static_cast<std::int64_t>(rank), piece.at("dataset").as_string(),
           piece.at("begin").as_integer(), piece.at("count").as_integer()});
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

/// Rank 0's part, once all shards are written.
void commit(const fs::path& root, const CheckpointInfo& info,
            const std::vector<std::string>& shards, const fs::path& partial) {
  const CheckpointManifest manifest = make_manifest(info, shards);
  for (const auto& file : manifest.files) {
    // Another rank's file that this rank does not see lies on another file system.
    const std::int64_t bytes = size_of_file(partial / file.name);
    if (bytes != file.bytes) {
      throw OutputFileError(
          (partial / file.name).string(),
          "has " + std::to_string(bytes) + " bytes, its rank wrote " + std::to_string(file.bytes));
    }
  }
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
  put_in_place(partial, root / checkpoint_name(info.step));
  sync_directory(root);
}

}  // namespace

void save_checkpoint(const fs::path& root, const CheckpointInfo& info,
                     const std::vector<TensorPiece>& pieces, Communicator& world) {
  const fs::path target = root / checkpoint_name(info.step);
  const fs::path partial = with_suffix(target, ".partial");
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
  error = error_of([&] { shard = write_shard(path, pieces); });
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
      commit(root, info, descriptions, partial);
    });
    if (!error.empty()) {
      std::error_code ignored;  // what stays has no manifest and counts as abandoned
      fs::remove_all(partial, ignored);
    }
  }
  fail_together(broadcast_text(error, world));
}

}  // namespace polymoe
