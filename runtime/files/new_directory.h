// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace polymoe {

/// A directory that appears under its name when it is complete. Until then it is NAME.partial,
/// which the destructor removes.
class NewDirectory {
 public:
  /// Throws InvalidArgument naming the `argument` that gave the path, when `path` exists and is not
  /// an empty directory, OutputFileError when it cannot be made.
  NewDirectory(const std::filesystem::path& path, const char* argument);
  ~NewDirectory();
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;

  /// Where to write.
  const std::filesystem::path& partial() const { return partial_; }
  /// Gives its name to it, or to a directory in it. Throws OutputFileError.
  void complete() { complete(partial_); }
  void complete(const std::filesystem::path& whole);

 private:
  std::filesystem::path path_, partial_;
};

}  // namespace polymoe
