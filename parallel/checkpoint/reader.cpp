// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/shard_reader.h"
#include "parallel/checkpoint/stored_values.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/hash.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

constexpr std::int64_t max_manifest_bytes = std::int64_t{1} << 30;

}  // namespace

CheckpointManifest read_manifest(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / manifest_name;
  return CheckpointManifest::parse(read_file(path, max_manifest_bytes), path.string());
}

CheckpointReader::CheckpointReader(const std::filesystem::path& directory) : directory_(directory) {
  open();
}

CheckpointReader::CheckpointReader(const std::filesystem::path& directory, Communicator& ranks)
    : directory_(directory) {
  std::int64_t digest = 0;
  on_every_rank(ranks, [&] {
    open();
    constexpr std::size_t digits = 15;  // what a positive number holds
    digest = std::stoll(xxh3_of(manifest_.to_text()).substr(0, digits), nullptr, 16);
  });
  if (!same_on_all_ranks(digest, ranks)) {
    throw InputFileError((directory / manifest_name).string(),
                         "is not the same on all ranks; they must see one file system");
  }
  on_every_rank(ranks, [&] {
    const auto size = static_cast<std::size_t>(ranks.size());
    for (auto file = static_cast<std::size_t>(ranks.rank()); file < files_.size(); file += size)
      verify(file);
  });
  verified_.assign(files_.size(), true);
}

void CheckpointReader::open() {
  manifest_ = read_manifest(directory_);
  files_ = manifest_.all_files();
  verified_.assign(files_.size(), false);
  for (const auto& file : files_) {
    const std::int64_t bytes = size_of_file(directory_ / file.name);
    if (bytes != file.bytes) {
      throw InputFileError((directory_ / file.name).string(), "has " + std::to_string(bytes) +
                                                                  " bytes, the manifest says " +
                                                                  std::to_string(file.bytes));
    }
  }
}

void CheckpointReader::verify(std::size_t file) const {
  if (verified_[file]) return;
  const std::filesystem::path path = directory_ / files_[file].name;
  check_hash(path, files_[file], xxh3_of_file(path));
  verified_[file] = true;
}

void CheckpointReader::verify_hashes() const {
  for (std::size_t file = 0; file < files_.size(); ++file) verify(file);
}

void CheckpointReader::read(const std::vector<TensorPiece>& pieces) const {
  Stream stream(Device::cpu());
  read(pieces, stream);
}

void CheckpointReader::read(const std::vector<TensorPiece>& pieces, Stream& stream) const {
  const std::string manifest_path = (directory_ / manifest_name).string();
  std::vector<ShardTransfer> transfers;
  for (const TensorPiece& piece : pieces) {
    const auto* stored = manifest_.find(piece.name);
    if (stored == nullptr) {
      throw InputFileError(manifest_path, "holds no tensor " + piece.name);
    }
    if (stored->shape != piece.shape || !can_be_read_as(stored->dtype, piece.held().dtype())) {
      throw InputFileError(manifest_path, "tensor " + piece.name + " is " + name_of(stored->dtype) +
                                              to_string(stored->shape) + ", expected " +
                                              name_of(piece.held().dtype()) +
                                              to_string(piece.shape));
    }
    const std::int64_t end = piece.begin + piece.data.elements();
    if (piece.begin < 0 || end > piece.shape.elements()) {
      throw InvalidArgument("elements " + std::to_string(piece.begin) + " to " +
                            std::to_string(end) + " of tensor " + piece.name + ", which is " +
                            to_string(piece.shape));
    }
    const HeldValues flat = piece.held().flat();
    auto from = std::upper_bound(stored->pieces.begin(), stored->pieces.end(), piece.begin,
                                 [](std::int64_t element, const auto& other) {
                                   return element < other.begin + other.count;
                                 });
    for (std::int64_t next = piece.begin; next < end; ++from) {
      const std::int64_t stop = std::min(end, from->begin + from->count);
      transfers.push_back({.from = &*from,
                           .stored = stored->dtype,
                           .begin = next - from->begin,
                           .to = flat.rows(next - piece.begin, stop - piece.begin)});
      next = stop;
    }
  }
  // Nothing is loaded of a checkpoint whose view is damaged either.
  if (manifest_.view) verify(files_.size() - 1);
  HostPassage passage(stream);
  // File by file, each opened once.
  std::stable_sort(
      transfers.begin(), transfers.end(),
      [](const ShardTransfer& a, const ShardTransfer& b) { return a.from->file < b.from->file; });
  for (auto begin = transfers.begin(); begin != transfers.end();) {
    const std::int64_t file = begin->from->file;
    const auto end = std::find_if(begin, transfers.end(), [&](const ShardTransfer& transfer) {
      return transfer.from->file != file;
    });
    read_from_file(static_cast<std::size_t>(file), {begin, end}, passage);
    begin = end;
  }
}

void CheckpointReader::read_from_file(std::size_t file, const std::vector<ShardTransfer>& transfers,
                                      HostPassage& passage) const {
  const std::filesystem::path path = directory_ / files_[file].name;
  if (manifest_.version < CheckpointManifest::first_version_with_offsets) {
    verify(file);
    read_shard_by_hdf5(path, transfers, passage);
  } else if (verified_[file]) {
    read_shard(path, transfers, passage);
  } else {
    read_shard_and_hash(path, files_[file], transfers, passage);
    verified_[file] = true;
  }
}

}  // namespace polymoe
