// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/new_file.h"

#include <filesystem>
#include <system_error>

#include "runtime/files/file.h"

namespace polymoe {

namespace fs = std::filesystem;

NewFile::NewFile(const fs::path& path) : path_(path), file_(fs::path(path) += ".partial") {}

NewFile::~NewFile() {
  std::error_code ignored;
  if (!complete_) fs::remove(file_.path(), ignored);
}

void NewFile::finish() {
  file_.sync();
  file_.close();
}

void NewFile::complete() {
  rename_path(file_.path(), path_);
  complete_ = true;
}

}  // namespace polymoe
