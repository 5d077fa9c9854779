// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/names.h"

#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>

namespace polymoe {

std::string checkpoint_name(std::int64_t step) {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "step-%08lld", static_cast<long long>(step));
  return name.data();
}

std::string shard_name(int rank, int ranks) {
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "shard-%05d-of-%05d.h5", rank, ranks);
  return name.data();
}

std::string name_of_kind(std::string_view kind, std::string_view name) {
  return std::string(kind).append(name);
}

bool is_checkpoint(const std::filesystem::path& directory) {
  return std::filesystem::exists(directory / manifest_name);
}

}  // namespace polymoe
