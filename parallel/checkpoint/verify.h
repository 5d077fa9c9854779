// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/progress.h"

namespace polymoe {

/// What a full check of a checkpoint found.
struct CheckpointVerdict {
  std::vector<std::string> findings;  // a line for everything wrong; empty = valid
  std::int64_t files = 0, bytes = 0;  // checked
  std::int64_t tensors = 0, elements = 0;
};

/// Checks everything that can be checked without another copy: the manifest and its cover of each
/// tensor, size and hash of every file, and in the files that pass, that each piece is there, of
/// its dtype and size, and finite. Reads a bounded part at a time, told on `progress` in bytes.
/// Never throws for what it finds.
CheckpointVerdict verify_checkpoint(const std::filesystem::path& directory,
                                    const ProgressOutput& progress = {});

}  // namespace polymoe
