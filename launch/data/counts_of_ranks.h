// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "launch/data/window_counts.h"
#include "parallel/communication/communicator.h"

namespace polymoe {

/// What find_window_counts() finds for each of the files, by path, the same on every rank. Rank 0
/// alone looks for kept counts; where there are none each rank counts a share of the file's blocks,
/// so that the index is read once whatever the number of ranks. `paths` are those of other ranks,
/// `token_bytes` as of TokenFile::open(). Collective; throws InputFileError on every rank where a
/// file cannot be read on one, or has another number of documents there.
std::map<std::string, FoundWindowCounts> window_counts_of_ranks(
    const std::vector<std::string>& paths, int token_bytes, std::int64_t context,
    const std::filesystem::path& directory, Communicator& ranks);

}  // namespace polymoe
