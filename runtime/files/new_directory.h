// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace polymoe {

/// A directory that appears under its name when it is complete. Until then it is NAME.partial,
/// which the destructor removes.
class NewDirectory {
 public:
  /// Throws InvalidArgument naming `option` when `path` exists and is not an empty directory,
  /// OutputFileError when it cannot be made.
  NewDirectory(const std::filesystem::path& path, const char* option);
  ~NewDirectory();
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;

  /// Where to write.
  const std::filesystem::path& partial() const { return partial_; }
  /// Gives it its name. Throws OutputFileError.
  void complete();

 private:
  std::filesystem::path path_, partial_;
};

}  // namespace polymoe
