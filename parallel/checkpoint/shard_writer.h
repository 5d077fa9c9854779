// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/stored_values.h"
#include "runtime/files/hdf5_file.h"
#include "runtime/files/json.h"

namespace polymoe {

/// Where a checkpoint is written before it is complete: root/step-XXXXXXXX.partial.
std::filesystem::path partial_checkpoint(const std::filesystem::path& root, std::int64_t step);

/// One rank's file of a checkpoint under construction. Failures throw OutputFileError.
class ShardWriter {
 public:
  explicit ShardWriter(const std::filesystem::path& path);

  /// Writes the piece's elements as one dataset of dtype `stored`, by the passage that leads to
  /// them.
  void add(const TensorPiece& piece, DType stored, HostPassage& passage);
  /// Closes and syncs. Returns what the manifest must know of the file, for commit_checkpoint.
  std::string finish();

 private:
  std::filesystem::path path_;
  Hdf5Writer file_;
  Json tensors_;
};

/// Once the shards of all ranks are finished in partial_checkpoint(root, info.step): writes the
/// view and the manifest from their descriptions, by rank, and gives the directory its name, in
/// place of an older one of that step. Throws InvalidArgument when the pieces do not cover every
/// tensor once, OutputFileError.
void commit_checkpoint(const std::filesystem::path& root, const CheckpointInfo& info,
                       const std::vector<std::string>& shards, SaveObserver* observer = nullptr);

}  // namespace polymoe
