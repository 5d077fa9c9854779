// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "launch/data/window_counts.h"
#include "runtime/files/token_file.h"

namespace polymoe {

/// Whole documents of a token file packed into windows, by its index alone.
///
/// A document of n tokens takes n - 1 rows, as its last token predicts nothing. One longer than a
/// window is cut: all but its rest fill windows of their own. Within a block of
/// the index (see WindowCounts), from the longest to the shortest, each goes where it leaves the
/// least room. So a window is found by its block alone and the counts of those before; memory is 16
/// bytes a block.
class DocumentPacking {
 public:
  /// Rows of a window: row r of `rows` has token begin + r and predicts the next one.
  struct Piece {
    std::int64_t begin = 0;
    std::int64_t rows = 0;
  };

  /// `counts` of the file that window() is given, from the file `source`, or counted now.
  explicit DocumentPacking(WindowCounts counts, std::filesystem::path source = {});

  std::int64_t windows() const { return first_windows_.back(); }
  /// How many rows of all windows hold tokens.
  std::int64_t rows() const { return counts_.rows; }
  const WindowCounts& counts() const { return counts_; }
  /// Whether the counts were read from no file.
  bool counted() const { return source_.empty(); }
  /// The documents of a window, in the order of their rows. Thread-safe. Throws InputFileError
  /// where a block packs otherwise than it was counted.
  std::vector<Piece> window(const TokenFile& file, std::int64_t number) const;

 private:
  struct Block {
    std::vector<Piece> pieces;        // by window
    std::vector<std::size_t> firsts;  // pieces of each window, and their number
  };
  Block pack(const TokenFile& file, std::int64_t block) const;

  WindowCounts counts_;
  std::filesystem::path source_;
  std::vector<std::int64_t> first_windows_;  // of each block, and their number
  struct Kept {
    std::mutex mutex;
    std::map<std::int64_t, std::shared_ptr<const Block>> blocks;  // packed lately
  };
  std::unique_ptr<Kept> kept_ = std::make_unique<Kept>();
};

}  // namespace polymoe
