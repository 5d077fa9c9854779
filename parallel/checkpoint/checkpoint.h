// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/save_observer.h"
#include "parallel/communication/communicator.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

class HostPassage;
struct ShardTransfer;

/// A flat range of a logical tensor and the memory that holds it on this rank: on the CPU, or on
/// the GPU of the stream that comes with it. A checkpoint stores bf16 as f32, other dtypes as they
/// are.
struct TensorPiece {
  std::string name;        // of the logical tensor: "moment1/layers.3.experts.17.up.weight"
  Shape shape;             // of the logical tensor
  std::int64_t begin = 0;  // first element, flat
  Tensor data;             // any shape; data.elements() elements from `begin` on
};

/// "step-00000100".
std::string checkpoint_name(std::int64_t step);

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

/// The same by one process for all ranks of a layout, one piece in memory at a time:
/// pieces_of(rank) describes them with tensors on any device, meta among them, whose dtype is the
/// one that is stored, and fill(piece) puts the values into `piece.data`, which then lies in host
/// memory. Throws OutputFileError, and what the functions throw; then nothing is left.
void write_checkpoint(const std::filesystem::path& root, const CheckpointInfo& info,
                      const std::function<std::vector<TensorPiece>(int rank)>& pieces_of,
                      const std::function<void(const TensorPiece& piece)>& fill);

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
  /// The same by ranks that see one file system, and the hashes of all files too: each rank checks
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
  /// The same for pieces on the CPU.
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

/// The newest committed and valid checkpoint under `root`, hashes included; nothing if there is
/// none. `passed_over` receives a line for each newer one that is not valid, and why.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& root,
                                                       std::vector<std::string>& passed_over);

/// The same by ranks that see one file system, which share the hashing; each gets all of it, the
/// checkpoint opened and hashed. Collective; all throw what one throws.
std::optional<CheckpointReader> open_newest_checkpoint(const std::filesystem::path& root,
                                                       std::vector<std::string>& passed_over,
                                                       Communicator& ranks);

/// Steps of the committed checkpoints under `root`, valid or not, ascending: of the directories that
/// checkpoint_name() names. A copy under another name is none of the run's. Throws InputFileError.
std::vector<std::int64_t> committed_steps(const std::filesystem::path& root);

/// Removes what is older than the newest `keep` committed checkpoints (0 keeps all), and abandoned
/// `.partial` directories. One rank calls it, while none writes. Throws OutputFileError.
void prune_checkpoints(const std::filesystem::path& root, std::int64_t keep,
                       SaveObserver* observer = nullptr);

/// The same by rank 0 for all; every rank throws what it throws. Collective.
void prune_checkpoints(const std::filesystem::path& root, std::int64_t keep, Communicator& world,
                       SaveObserver* observer);

}  // namespace polymoe
