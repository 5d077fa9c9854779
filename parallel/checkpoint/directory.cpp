// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "parallel/checkpoint/directory.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/save_observer.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/error.h"
#include "runtime/files/file.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

constexpr const char* partial_extension = ".partial";

enum class Kind { committed, replaced, partial };

struct Candidate {
  std::int64_t step;
  Kind kind;
  fs::path path;
};

/// Everything under `root` that is named like a checkpoint: the newest first, of one step the
/// committed one first.
std::vector<Candidate> candidates(const fs::path& root) {
  std::vector<Candidate> found;
  std::error_code error;
  fs::directory_iterator entry(root, error);
  if (error == std::errc::no_such_file_or_directory) return found;
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::string_view rest = name;
    if (!rest.starts_with("step-")) continue;
    rest.remove_prefix(5);
    std::int64_t step = 0;
    const auto [end, bad] = std::from_chars(rest.data(), rest.data() + rest.size(), step);
    if (bad != std::errc() || step < 0) continue;
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    if (name != checkpoint_name(step) + std::string(rest)) continue;
    if (rest.empty()) {
      found.push_back({step, Kind::committed, entry->path()});
    } else if (rest == ".replaced") {
      found.push_back({step, Kind::replaced, entry->path()});
    } else if (rest == partial_extension) {
      found.push_back({step, Kind::partial, entry->path()});
    }
  }
  if (error) throw InputFileError(root.string(), "cannot list: " + error.message());
  std::sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    return a.step != b.step ? a.step > b.step : a.kind < b.kind;
  });
  return found;
}

void remove_directory(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw OutputFileError(path.string(), "cannot remove: " + error.message());
}

bool can_be_opened(const fs::path& path) {
  try {
    const CheckpointReader reader(path);
    return true;
  } catch (const InputFileError&) {
    return false;
  }
}

}  // namespace

std::vector<std::int64_t> committed_steps(const fs::path& root) {
  std::vector<std::int64_t> steps;
  for (const Candidate& candidate : candidates(root))
    if (candidate.kind == Kind::committed) steps.push_back(candidate.step);
  std::reverse(steps.begin(), steps.end());
  return steps;
}

std::optional<fs::path> newest_checkpoint(const fs::path& root,
                                          std::vector<std::string>& passed_over) {
  for (const Candidate& candidate : candidates(root)) {
    if (candidate.kind == Kind::partial) {
      passed_over.push_back(candidate.path.string() + ": was never committed");
      continue;
    }
    try {
      CheckpointReader(candidate.path).verify_hashes();
      return candidate.path;
    } catch (const InputFileError& error) {
      passed_over.push_back(error.what());
    }
  }
  return std::nullopt;
}

std::optional<CheckpointReader> open_newest_checkpoint(const fs::path& root,
                                                       std::vector<std::string>& passed_over,
                                                       Communicator& ranks) {
  // What rank 0 sees is looked at by all, in its order.
  std::istringstream names(on_first_rank(ranks, [&] {
    std::string listing;
    for (const Candidate& candidate : candidates(root))
      listing += candidate.path.filename().string() + "\n";
    return listing;
  }));
  for (std::string name; std::getline(names, name);) {
    const fs::path path = root / name;
    if (path.extension() == partial_extension) {
      passed_over.push_back(path.string() + ": was never committed");
      continue;
    }
    try {
      return CheckpointReader(path, ranks);
    } catch (const InputFileError& error) {
      passed_over.push_back(error.what());
    }
  }
  return std::nullopt;
}

void prune_checkpoints(const fs::path& root, std::int64_t keep, SaveObserver* observer,
                       std::int64_t beside) {
  std::vector<Candidate> found = candidates(root);
  std::erase_if(found, [](const Candidate& candidate) {
    if (candidate.kind != Kind::partial) return false;
    remove_directory(candidate.path);
    return true;
  });
  std::int64_t kept = 0, last_step = -1;
  for (const Candidate& candidate : found) {
    const bool enough = keep > 0 && kept >= keep && candidate.step != beside;
    if (enough || candidate.step == last_step) {
      // A removal that is cut off must not leave something that looks committed.
      const fs::path partial = root / (checkpoint_name(candidate.step) + partial_extension);
      rename_path(candidate.path, partial);
      tell(observer, SavePoint::retention);
      remove_directory(partial);
    } else if (can_be_opened(candidate.path)) {
      ++kept;
      last_step = candidate.step;
    }
    // A damaged one is no reason to remove a valid one: it stays until enough are newer.
  }
}

}  // namespace polymoe
