// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/save_observer.h"
#include "parallel/checkpoint/stored_values.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "runtime/files/hdf5_file.h"
#include "runtime/tensor.h"

namespace polymoe {

/// Where a checkpoint is written before it is complete: root/step-XXXXXXXX.partial.
std::filesystem::path partial_checkpoint(const std::filesystem::path& root, std::int64_t step);

/// What the manifest must know of one rank's file.
struct ShardDescription {
  /// Elements [begin, begin + count) of a tensor; without a dataset where count is 0.
  struct Piece {
    std::string name;
    Shape shape;  // of the tensor
    DType dtype = DType::f32;
    std::string dataset;
    std::int64_t begin = 0;
    std::int64_t count = 0;
    std::int64_t offset = 0;  // in the file, in bytes
  };
  std::int64_t bytes = 0;
  std::string xxh3;
  std::vector<Piece> pieces;

  /// As ranks send it to each other.
  std::string pack() const;
  /// Throws CommunicationError where it is not what pack() made.
  static ShardDescription unpack(std::string_view bytes);
};

/// One rank's file of a checkpoint under construction. Failures throw OutputFileError.
class ShardWriter {
 public:
  explicit ShardWriter(const std::filesystem::path& path);

  /// Writes the piece's elements as one dataset of dtype `stored`, by the passage that leads to
  /// them.
  void add(const TensorPiece& piece, DType stored, HostPassage& passage);
  /// Closes and syncs.
  ShardDescription finish();

 private:
  std::filesystem::path path_;
  Hdf5Writer file_;
  ShardDescription description_;
};

/// Once the shards of all ranks are finished in partial_checkpoint(root, info.step): writes the
/// view and the manifest from their descriptions, by rank, and gives the directory its name, in
/// place of an older one of that step. Throws InvalidArgument when the pieces do not cover every
/// tensor once, OutputFileError.
void commit_checkpoint(const std::filesystem::path& root, const CheckpointInfo& info,
                       const std::vector<ShardDescription>& shards,
                       SaveObserver* observer = nullptr);

}  // namespace polymoe
