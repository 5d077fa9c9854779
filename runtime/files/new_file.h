// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

#include "runtime/files/file.h"

namespace polymoe {

/// A file that appears under its name, in place of another one, when it is complete. Until then it
/// is NAME.partial, which the destructor removes. Every failure to write throws OutputFileError.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(std::string_view bytes) { file_.write(bytes); }
  void write(const void* bytes, std::size_t count) { file_.write(bytes, count); }
  /// Returns when the content is on the disk; nothing is written after it.
  void finish();
  /// Gives it its name, after finish(). The directory is for the caller to sync.
  void complete();

 private:
  std::filesystem::path path_;
  OutputFile file_;
  bool complete_ = false;
};

}  // namespace polymoe
