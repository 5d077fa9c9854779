// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/new_directory.h"

#include <filesystem>
#include <string>
#include <system_error>

#include "runtime/error.h"
#include "runtime/files/file.h"

namespace polymoe {

namespace fs = std::filesystem;

NewDirectory::NewDirectory(const fs::path& path, const char* argument)
    : path_(fs::absolute(path).lexically_normal()) {
  if (!path_.has_filename()) path_ = path_.parent_path();  // "DIR/"
  std::error_code error;
  if (fs::exists(path_, error) && !(fs::is_directory(path_, error) && fs::is_empty(path_, error)))
    throw InvalidArgument(std::string(argument) + " " + path.string() +
                          ": exists already; must be a new or an empty directory");
  partial_ = path_;
  partial_ += ".partial";
  fs::remove_all(partial_, error);  // what cannot be removed fails in the next line
  make_directories(partial_);
}

NewDirectory::~NewDirectory() {
  std::error_code ignored;
  if (!partial_.empty()) fs::remove_all(partial_, ignored);
}

void NewDirectory::complete(const fs::path& whole) {
  sync_directory(whole);
  rename_path(whole, path_);
  if (whole == partial_) partial_.clear();
  sync_directory(path_.parent_path());
}

}  // namespace polymoe
