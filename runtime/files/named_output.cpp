// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/named_output.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "runtime/error.h"
#include "runtime/files/file.h"

namespace polymoe {

namespace fs = std::filesystem;

namespace {

/// Where a file lies, or would, behind all links.
fs::path place_of(const fs::path& path) {
  std::error_code error;
  fs::path at = path;
  // A link that points nowhere is no path to weakly_canonical(): the file will be what it names.
  constexpr int most_links = 40;
  for (int i = 0; i < most_links && fs::is_symlink(at, error) && !fs::exists(at, error); ++i)
    at = at.parent_path() / fs::read_symlink(at, error);
  const fs::path place = fs::weakly_canonical(fs::absolute(at, error), error);
  return error ? at : place;
}

bool lies_in(const fs::path& inner, const fs::path& outer) {
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

}  // namespace

bool is_device_or_pipe(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) return false;
  const std::string name = fs::absolute(path, error).lexically_normal().string();
  const auto below = [&](const char* folder) { return name.starts_with(folder); };
  return fs::is_other(status) || (below("/dev/") && !below("/dev/shm/")) || below("/proc/");
}

void refuse_to_replace(const std::vector<NamedPath>& outputs,
                       const std::vector<NamedPath>& inputs) {
  const auto refuse = [](const NamedPath& output, const std::string& cause) {
    throw InvalidArgument(fmt::format("{} {}: {}; another file must be named", output.argument,
                                      output.path.string(), cause));
  };
  std::error_code error;
  struct Input {
    const NamedPath& named;
    fs::path place;
    bool directory;
  };
  std::vector<Input> there;
  for (const NamedPath& input : inputs)
    if (fs::exists(input.path, error))
      there.push_back({input, place_of(input.path), fs::is_directory(input.path, error)});
  std::vector<fs::path> places;
  for (const NamedPath& output : outputs) {
    places.push_back(place_of(output.path));
    if (is_device_or_pipe(output.path)) continue;
    // Two names of one file, too.
    const bool exists = fs::exists(output.path, error);
    const auto is_same = [&](const fs::path& path, const fs::path& place) {
      return places.back() == place || (exists && fs::equivalent(output.path, path, error));
    };
    for (std::size_t i = 0; i + 1 < places.size(); ++i)
      if (is_same(outputs[i].path, places[i]))
        refuse(output, fmt::format("is where {} goes", outputs[i].argument));
    for (const Input& input : there) {
      if (is_same(input.named.path, input.place))
        refuse(output, fmt::format("is what {} reads", input.named.argument));
      if (input.directory && lies_in(places.back(), input.place))
        refuse(output, fmt::format("lies in {}, which {} reads", input.named.path.string(),
                                   input.named.argument));
    }
  }
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
