// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/ini.h"
#include "launch/studies/study.h"

namespace polymoe {

/// The text of a study file, each value understood, before any cell is made.
struct StudyFile {
  std::filesystem::path base;  // empty = defaults
  std::filesystem::path directory;
  std::vector<std::uint64_t> seeds = {0};
  int ranks = 1;
  std::optional<std::string> baseline;
  double flops_per_second = 0.0;
  bool keep_checkpoints = true;
  StudyBudget budget;
  std::vector<std::int64_t> branch_tokens;  // empty = cells are whole runs
  std::string branch_decay = "20%";
  std::vector<Assignment> set;  // of every cell
  std::vector<StudyAxis> axes;
};

/// The key of an axis that sets the number of ranks, which is no key of the configuration.
inline constexpr const char* ranks_key = "ranks";

/// Parses it; what is wrong is added to `violations`, and left out of the result.
StudyFile parse_study_file(const std::string& text, const std::filesystem::path& file,
                           std::vector<std::string>& violations);

}  // namespace polymoe
