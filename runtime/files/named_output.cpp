// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/named_output.h"

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "runtime/files/file.h"

namespace polymoe {

namespace fs = std::filesystem;

bool is_device_or_pipe(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) return false;
  const std::string name = fs::absolute(path, error).lexically_normal().string();
  const auto below = [&](const char* folder) { return name.starts_with(folder); };
  return fs::is_other(status) || (below("/dev/") && !below("/dev/shm/")) || below("/proc/");
}

void check_named_output(const fs::path& path) {
  if (is_device_or_pipe(path)) return;
  std::error_code error;
  const bool was_there = fs::exists(path, error);
  OutputFile(path, OutputFile::Mode::append).close();
  // Of a link that pointed nowhere what it points to, not the link.
  if (!was_there) fs::remove(fs::canonical(path, error), error);
}

void write_named_output(const fs::path& path, std::string_view content) {
  if (!is_device_or_pipe(path)) return replace_file(path, content);
  OutputFile file(path, OutputFile::Mode::append);
  file.write(content);
  file.close();
}

}  // namespace polymoe
