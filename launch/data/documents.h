// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/files/file.h"

namespace polymoe {

/// The documents of text files, memory-mapped: one per file, or split at separator lines. Empty
/// documents are left out.
class Documents {
 public:
  /// A line equal to `separator` (an end of line "\n" or "\r\n" aside) ends a document and belongs
  /// to none; an empty separator splits nothing. Throws InputFileError when a file cannot be read
  /// or there is no document in any of them.
  Documents(const std::vector<std::string>& paths, const std::string& separator);

  std::size_t size() const { return texts_.size(); }
  std::string_view operator[](std::size_t i) const { return texts_[i]; }
  std::int64_t bytes() const;

  /// Cuts the only document in two, of which the second is the last `fraction` of its bytes, rounded
  /// to whole lines, or to whole characters where that leaves one of them empty.
  /// Throws InvalidArgument if there are several documents, or the text is too short to be cut.
  void cut_end(double fraction);

 private:
  void add(std::string_view text);

  std::vector<MappedFile> files_;
  std::vector<std::string_view> texts_;
};

/// round(fraction * documents), but at least one and not all, of the numbers 0 .. documents - 1,
/// chosen by the seed: element i says whether document i is held out.
/// Throws InvalidArgument with fewer than two documents.
std::vector<bool> choose_held_out(std::size_t documents, double fraction, std::uint64_t seed);

}  // namespace polymoe
