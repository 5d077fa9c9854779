// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/communicator.h"
#include "runtime/stream.h"

namespace polymoe {

class HostPassage;
struct ShardTransfer;

/// Reads and checks the manifest of a checkpoint. Throws InputFileError.
CheckpointManifest read_manifest(const std::filesystem::path& directory);

/// A committed checkpoint, opened for reading. Any rank of any layout may hold one; one thread uses
/// it. Nothing changes the files of a checkpoint once it has its name, so that what is read is what
/// was hashed, by this rank or another.
class CheckpointReader {
 public:
  /// Reads and checks the manifest, the size of every file, and that the pieces cover each tensor
  /// completely without overlap. Throws InputFileError.
  explicit CheckpointReader(const std::filesystem::path& directory);
  /// Ranks that see one file system check this, and the hashes of all files too: each rank checks
  /// every ranks.size()-th. Collective; all throw InputFileError where one does, the same one.
  CheckpointReader(const std::filesystem::path& directory, Communicator& ranks);

  const std::filesystem::path& directory() const { return directory_; }
  const CheckpointInfo& info() const { return manifest_.info; }
  const CheckpointManifest& manifest() const { return manifest_; }
  bool has(const std::string& tensor) const { return manifest_.find(tensor) != nullptr; }
  /// Checks the hash of every file. Throws InputFileError naming the first bad one.
  void verify_hashes() const;
  /// Fills every piece from the files that hold it, each of which is hashed once per reader: as it
  /// is read, or, where its version makes HDF5 read it, before. Pieces may share a tensor. f32 and
  /// bf16 are read into either (see can_be_read_as), other dtypes into the same. Pieces on a GPU
  /// are filled in order on `stream`, which is of that GPU, and are there on return. Throws
  /// InputFileError when a tensor is missing or has another shape or dtype, before anything is
  /// read, and where a file is damaged; pieces then hold nothing of use.
  void read(const std::vector<TensorPiece>& pieces, Stream& stream) const;
  /// Reads pieces that lie on the CPU.
  void read(const std::vector<TensorPiece>& pieces) const;

 private:
  void open();
  void verify(std::size_t file) const;
  void read_from_file(std::size_t file, const std::vector<ShardTransfer>& transfers,
                      HostPassage& passage) const;

  std::filesystem::path directory_;
  CheckpointManifest manifest_;
  std::vector<CheckpointManifest::File> files_;  // the shards by rank, then the view
  mutable std::vector<bool> verified_;           // per file
};

}  // namespace polymoe
