// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tensor.h"

namespace polymoe {

/// What a checkpoint says of itself beside its tensors.
struct CheckpointInfo {
  std::int64_t step = 0;
  std::int64_t tokens = 0;
  int ranks = 1;
  int expert_parallel = 1;
  std::string config;  // the resolved configuration, INI text
  std::string state;   // JSON object: data position and whatever else the trainer resumes by
};

/// The content of manifest.json: which tensors a checkpoint holds and where.
struct CheckpointManifest {
  struct File {
    std::string name;  // shard_name(rank, ranks)
    std::int64_t bytes = 0;
    std::string xxh3;  // of its content
  };
  /// Elements [begin, begin + count) of a tensor, the whole of a dataset.
  struct Piece {
    std::int64_t file = 0;  // index in `files`
    std::string dataset;
    std::int64_t begin = 0;
    std::int64_t count = 0;
    std::int64_t offset = -1;  // in the file, in bytes; from version 3 on
  };
  struct StoredTensor {
    std::string name;
    Shape shape;  // logical, global
    DType dtype = DType::f32;
    std::vector<Piece> pieces;  // by begin
  };

  /// 1: shards and manifest. 2: the view beside them. 3: offsets of the pieces; bf16.
  static constexpr int newest_version = 3;
  static constexpr int first_version_with_offsets = 3;

  int version = newest_version;
  CheckpointInfo info;
  std::vector<File> files;            // one per rank
  std::optional<File> view;           // from version 2 on
  std::vector<StoredTensor> tensors;  // by name

  /// The shards, and the view where there is one.
  std::vector<File> all_files() const;
  /// Null when there is none of that name.
  const StoredTensor* find(std::string_view name) const;

  /// Throws InvalidArgument unless the pieces of each tensor cover it completely and only once.
  void check_cover() const;

  /// JSON. Its last member is the hash of the text before it, so that any damage shows.
  std::string to_text() const;
  /// Reads to_text() back and checks everything that it can check without the files.
  /// Throws InputFileError(path) on a newer format version, on a text that is not byte for byte
  /// what to_text() wrote, or where check_cover() throws.
  static CheckpointManifest parse(std::string_view text, const std::string& path);
};

/// The DType called `name`, of those that a shard can hold. Throws InvalidArgument for others.
DType stored_dtype(std::string_view name);

/// A shape from its extents. Throws InvalidArgument for a negative one, for more than
/// Shape::max_rank, or when the elements are beyond counting.
Shape shape_of(const std::vector<std::int64_t>& extents);

}  // namespace polymoe
