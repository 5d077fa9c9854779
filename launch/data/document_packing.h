// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/files/token_file.h"

namespace polymoe {

/// Whole documents of a token file packed into windows, by its index alone.
///
/// A document of n tokens takes n - 1 rows, as its last token predicts nothing. One longer than a
/// window is cut: all but its rest fill windows of their own. Documents are packed in blocks of
/// `block_documents` that follow one another in the file: from the longest to the shortest each goes
/// where it leaves the least room. So a window is found without the others, and memory does not grow
/// with the file.
class DocumentPacking {
 public:
  static constexpr std::int64_t block_documents = 4096;

  /// Rows of a window: row r of `rows` has token begin + r and predicts the next one.
  struct Piece {
    std::int64_t begin = 0;
    std::int64_t rows = 0;
  };

  /// `file` must have documents. Reads the index once, at some 20 million documents a second
  /// and thread. Throws
  /// InputFileError.
  DocumentPacking(const TokenFile& file, std::int64_t context);

  std::int64_t windows() const { return first_windows_.back(); }
  /// How many rows of all windows hold tokens.
  std::int64_t rows() const { return rows_; }
  /// The documents of a window, in the order of their rows; `file` as given before. Thread-safe.
  std::vector<Piece> window(const TokenFile& file, std::int64_t number) const;

 private:
  struct Block {
    std::vector<Piece> pieces;        // by window
    std::vector<std::size_t> firsts;  // pieces of each window, and their number
  };
  Block pack(const TokenFile& file, std::int64_t block) const;

  std::int64_t context_ = 0;
  std::int64_t rows_ = 0;
  std::vector<std::int64_t> first_windows_;  // of each block, and their number
  struct Kept {
    std::mutex mutex;
    std::map<std::int64_t, std::shared_ptr<const Block>> blocks;  // packed lately
  };
  std::unique_ptr<Kept> kept_ = std::make_unique<Kept>();
};

}  // namespace polymoe
