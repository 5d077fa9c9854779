// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/save_observer.h"

namespace polymoe {

/// The newest committed and valid checkpoint under `root`, hashes included; nothing if there is
/// none. `passed_over` receives a line for each newer one that is not valid, and why.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& root,
                                                       std::vector<std::string>& passed_over);

/// Finds it by ranks that see one file system, which share the hashing; each gets all of it, the
/// checkpoint opened and hashed. Collective; all throw what one throws.
std::optional<CheckpointReader> open_newest_checkpoint(const std::filesystem::path& root,
                                                       std::vector<std::string>& passed_over,
                                                       Communicator& ranks);

/// Steps of the committed checkpoints under `root`, valid or not, ascending: of the directories
/// that checkpoint_name() names. A copy under another name is none of the run's. Throws
/// InputFileError.
std::vector<std::int64_t> committed_steps(const std::filesystem::path& root);

/// Removes what is older than the newest `keep` committed checkpoints (0 keeps all), but the one of
/// step `beside`, and abandoned `.partial` directories. One rank calls it, while none writes.
/// Throws OutputFileError.
void prune_checkpoints(const std::filesystem::path& root, std::int64_t keep,
                       SaveObserver* observer = nullptr, std::int64_t beside = -1);

/// Rank 0 does it for all; every rank throws what it throws. Collective.
void prune_checkpoints(const std::filesystem::path& root, std::int64_t keep, Communicator& world,
                       SaveObserver* observer, std::int64_t beside = -1);

}  // namespace polymoe
