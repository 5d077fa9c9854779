// SPDX-License-Identifier: Apache-2.0
#include "launch/data/names_apart.h"

#include <cstddef>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace polymoe {

std::vector<std::string> names_apart(const std::vector<std::filesystem::path>& files,
                                     const std::vector<std::string_view>& endings,
                                     const std::vector<std::string>& taken) {
  std::vector<std::string> names;
  std::map<std::string, int> count;
  for (const std::string& name : taken) ++count[name];
  for (const std::filesystem::path& file : files) {
    std::string name = file.filename().string();
    for (const std::string_view ending : endings)
      if (name.ends_with(ending) && name.size() > ending.size())
        name.resize(name.size() - ending.size());
    ++count[name];
    names.push_back(std::move(name));
  }
  // A name that one file has by itself stays its own, whatever others get.
  std::set<std::string> given(taken.begin(), taken.end());
  for (const auto& [name, files_of_it] : count)
    if (files_of_it == 1) given.insert(name);
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (count[names[i]] == 1) continue;
    const std::string folder = files[i].parent_path().filename().string();
    if (!folder.empty()) names[i].insert(0, folder + "-");
    const std::string name = names[i];
    for (int number = 2; !given.insert(names[i]).second; ++number)
      names[i] = name + "-" + std::to_string(number);
  }
  return names;
}

}  // namespace polymoe
