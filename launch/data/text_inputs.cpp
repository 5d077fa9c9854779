// SPDX-License-Identifier: Apache-2.0
#include "launch/data/text_inputs.h"

#include <glob.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "launch/data/parquet_texts.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

void add_directory(const fs::path& directory, std::vector<std::string>& files) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const bool hidden = entry->path().filename().string().starts_with(".");
    if (hidden && entry->is_directory()) entry.disable_recursion_pending();
    if (!hidden && entry->is_regular_file()) found.push_back(entry->path().string());
  }
  if (error) throw InputFileError(directory.string(), "cannot list: " + error.message());
  if (found.empty()) throw InputFileError(directory.string(), "is a directory without files");
  std::sort(found.begin(), found.end());
  files.insert(files.end(), found.begin(), found.end());
}

void add_matches(const std::string& pattern, std::vector<std::string>& files) {
  glob_t matches{};
  const int result = ::glob(pattern.c_str(), 0, nullptr, &matches);
  std::vector<std::string> found;
  for (std::size_t i = 0; result == 0 && i < matches.gl_pathc; ++i)
    if (fs::is_regular_file(matches.gl_pathv[i])) found.emplace_back(matches.gl_pathv[i]);
  ::globfree(&matches);
  if (found.empty()) throw InputFileError(pattern, "matches no file");
  files.insert(files.end(), found.begin(), found.end());
}

}  // namespace

std::vector<std::string> text_inputs(const std::vector<std::string>& given) {
  std::vector<std::string> files;
  for (const std::string& input : given) {
    std::error_code ignored;
    if (input == "-") {
      if (std::find(files.begin(), files.end(), "-") != files.end())
        throw InputFileError("standard input", "can be read once only");
      files.push_back(input);
    } else if (fs::is_directory(input, ignored)) {
      add_directory(input, files);
    } else if (!fs::exists(input, ignored) && input.find_first_of("*?[") != std::string::npos) {
      add_matches(input, files);
    } else if (fs::exists(input, ignored)) {
      files.push_back(input);
    } else {
      throw InputFileError(input, "no such file");
    }
  }
  // Before the files in front of one are read.
  for (const std::string& file : files)
    if (file.ends_with(".parquet") && !reads_parquet()) open_parquet(file, "");
  return files;
}

std::int64_t input_bytes(const std::vector<std::string>& files) {
  std::int64_t total = 0;
  for (const std::string& file : files) {
    std::error_code error;
    const auto bytes = fs::is_regular_file(file, error) ? fs::file_size(file, error) : 0;
    if (error || !fs::is_regular_file(file, error)) return 0;
    total += static_cast<std::int64_t>(bytes);
  }
  return total;
}

bool names_json_lines(const std::string& file) {
  fs::path path(file);
  for (const char* compressed : {".gz", ".zst", ".xz"})
    if (path.extension() == compressed) path.replace_extension();
  return path.extension() == ".jsonl" || path.extension() == ".ndjson";
}

}  // namespace polymoe
