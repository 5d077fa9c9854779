// SPDX-License-Identifier: Apache-2.0
#include "launch/data/names_apart.h"

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polymoe {

std::vector<std::string> names_apart(const std::vector<std::filesystem::path>& files,
                                     const std::vector<std::string_view>& endings) {
  std::vector<std::string> names;
  std::map<std::string, int> count;
  for (const std::filesystem::path& file : files) {
    std::string name = file.filename().string();
    for (const std::string_view ending : endings)
      if (name.ends_with(ending) && name.size() > ending.size())
        name.resize(name.size() - ending.size());
    ++count[name];
    names.push_back(std::move(name));
  }
  std::map<std::string, int> given;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string folder = files[i].parent_path().filename().string();
    if (count[names[i]] > 1 && !folder.empty()) names[i].insert(0, folder + "-");
    const int number = ++given[names[i]];
    if (number > 1) names[i] += "-" + std::to_string(number);
  }
  return names;
}

}  // namespace polymoe
