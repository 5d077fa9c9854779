// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/files/token_file.h"

namespace polymoe {

/// Documents of a token file are packed in blocks of so many, which follow one another in it; the
/// last block may have fewer.
constexpr std::int64_t packing_block_documents = 4096;
/// The document bounds of a block. Throws InputFileError.
std::vector<std::int64_t> bounds_of_packing_block(const TokenFile& file, std::int64_t block);

/// How many windows of `context` rows each block of a file packs into: all that a start needs of
/// the index, in eight bytes a block.
struct WindowCounts {
  std::int64_t context = 0;
  std::int64_t rows = 0;              // of all windows, that hold tokens
  std::vector<std::int64_t> windows;  // by block

  bool operator==(const WindowCounts&) const = default;
};

/// The blocks of a file: the number of its documents over packing_block_documents, rounded up.
std::int64_t packing_blocks(const TokenFile& file);

/// The blocks from `first` to before `last`.
struct BlockRange {
  std::int64_t first = 0, last = 0;
};
/// The counts for each of `contexts`, of all blocks or of those in the range. Reads their index
/// once, at some 20 million documents a second, thread and context. Throws InputFileError.
std::vector<WindowCounts> count_windows(const TokenFile& file,
                                        std::span<const std::int64_t> contexts);
std::vector<WindowCounts> count_windows(const TokenFile& file,
                                        std::span<const std::int64_t> contexts, BlockRange range);

/// The contexts for which counts are kept beside tokens: the powers of two from 512 to 131,072.
std::span<const std::int64_t> usual_contexts();
/// Files of fewer documents are not worth it: a start counts them in some hundredths of a second.
constexpr std::int64_t least_kept_documents = 64 * packing_block_documents;
/// PREFIX.windows, beside the tokens.
std::filesystem::path window_counts_path(std::filesystem::path file);

/// Writes the counts of a file, and by what the file is known again. Throws OutputFileError.
void write_window_counts(const std::filesystem::path& path, const TokenFile& file,
                         std::span<const WindowCounts> counts);

/// A file of counts as it was written.
class WindowCountsFile {
 public:
  /// Throws InputFileError where `path` cannot be read, is damaged, or was made of other tokens or
  /// another index than `file` has.
  WindowCountsFile(const std::filesystem::path& path, const TokenFile& file);

  const std::vector<std::int64_t>& contexts() const { return contexts_; }
  /// Nothing where it has no such context. Some blocks of the index are counted again: throws
  /// InputFileError where they pack otherwise, or the counts are damaged.
  std::optional<WindowCounts> read(const TokenFile& file, std::int64_t context) const;

 private:
  struct Part {
    std::int64_t rows = 0;
    std::string hash;
  };
  std::filesystem::path path_;
  std::int64_t first_byte_ = 0, blocks_ = 0;
  std::vector<std::int64_t> contexts_;
  std::vector<Part> parts_;  // by context
};

/// What kept counts there are of a file.
struct KeptWindowCounts {
  std::optional<WindowCounts> counts;
  std::filesystem::path from;
  std::string warning;  // of kept ones that are of no use
};
/// Those beside `file`, else those kept in `directory` (none where it is empty).
KeptWindowCounts kept_window_counts(const TokenFile& file, std::int64_t context,
                                    const std::filesystem::path& directory);

/// Counts, and where they are from.
struct FoundWindowCounts {
  WindowCounts counts;
  std::filesystem::path from;  // empty: they were counted now
  std::string warning;         // of kept ones that are of no use
};
/// The kept counts, else those that `count` returns, with a warning that says so where there was
/// one.
FoundWindowCounts kept_or_counted(KeptWindowCounts kept,
                                  const std::function<WindowCounts()>& count);
/// The kept counts of `file`, else new ones. Throws InputFileError where the index cannot be read.
FoundWindowCounts find_window_counts(const TokenFile& file, std::int64_t context,
                                     const std::filesystem::path& directory);
/// Keeps them in `directory`, which is made where it is missing, for this file and context alone:
/// another file has counts of its own there, whatever is in it. Returns the path. Throws
/// OutputFileError.
std::filesystem::path keep_window_counts(const TokenFile& file, const WindowCounts& counts,
                                         const std::filesystem::path& directory);

}  // namespace polymoe
