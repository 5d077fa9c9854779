// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/json.h"
#include "runtime/files/safetensors.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t max_index_bytes = SafetensorsFile::max_header_bytes;

/// Throws InvalidArgument unless `name` is that of a file beside the index.
void check_file_name(const std::string& name) {
  if (name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos || name == ".." ||
      !name.ends_with(".safetensors"))
    throw InvalidArgument("file " + Json(name).dump() +
                          " must be a name without directory that ends in .safetensors");
}

/// Tensor name -> file name.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const Json index = parse_json(read_file(path, max_index_bytes), path.string());
  try {
    std::map<std::string, std::string> files;
    for (const Json::Member& member : index.at("weight_map").members()) {
      check_file_name(member.value.as_string());
      files.emplace(member.key, member.value.as_string());
    }
    if (files.empty()) throw InvalidArgument("weight_map is empty");
    return files;
  } catch (const InvalidArgument& error) {
    throw InputFileError(path.string(), error.what());
  }
}

}  // namespace

SafetensorsModel::SafetensorsModel(const fs::path& directory) {
  const auto add = [&](const std::string& name) -> const SafetensorsFile& {
    const SafetensorsFile& file =
        *files_.emplace_back(std::make_unique<SafetensorsFile>(directory / name));
    for (const SafetensorsFile::Entry& entry : file.entries())
      if (!tensors_.emplace(entry.name, Source{&file, &entry}).second)
        throw InputFileError(file.path().string(),
                             "holds tensor " + entry.name + ", which another file holds as well");
    return file;
  };
  if (fs::exists(directory / single_name)) {
    add(single_name);
    return;
  }
  const fs::path path = directory / index_name;
  if (!fs::exists(path))
    throw InputFileError(directory.string(),
                         std::string("holds neither ") + single_name + " nor " + index_name);
  const std::map<std::string, std::string> index = read_index(path);
  std::set<std::string> names;
  for (const auto& [tensor, file] : index) names.insert(file);
  for (const std::string& name : names) {
    for (const SafetensorsFile::Entry& entry : add(name).entries()) {
      const auto listed = index.find(entry.name);
      if (listed == index.end() || listed->second != name)
        throw InputFileError(path.string(),
                             "does not say that tensor " + entry.name + " is in " + name);
    }
  }
  for (const auto& [tensor, file] : index)
    if (find(tensor) == nullptr)
      throw InputFileError((directory / file).string(),
                           "holds no tensor " + tensor + ", which the index says it does");
}

const SafetensorsModel::Source* SafetensorsModel::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace polymoe
