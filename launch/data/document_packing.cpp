// SPDX-License-Identifier: Apache-2.0
#include "launch/data/document_packing.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "launch/data/window_counts.h"
#include "runtime/error.h"
#include "runtime/files/token_file.h"

namespace polymoe {

DocumentPacking::DocumentPacking(WindowCounts counts, std::filesystem::path source)
    : counts_(std::move(counts)), source_(std::move(source)) {
  first_windows_.push_back(0);
  for (const std::int64_t windows : counts_.windows)
    first_windows_.push_back(first_windows_.back() + windows);
}

DocumentPacking::Block DocumentPacking::pack(const TokenFile& file, std::int64_t block) const {
  const std::vector<std::int64_t> bounds = bounds_of_packing_block(file, block);
  const std::int64_t context = counts_.context;
  std::vector<std::vector<Piece>> windows;
  std::vector<Piece> rests;
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
    Piece rest{.begin = bounds[i], .rows = bounds[i + 1] - bounds[i] - 1};
    for (; rest.rows >= context; rest.rows -= context, rest.begin += context)
      windows.push_back({{.begin = rest.begin, .rows = context}});
    if (rest.rows > 0) rests.push_back(rest);
  }
  std::stable_sort(rests.begin(), rests.end(),
                   [](const Piece& a, const Piece& b) { return a.rows > b.rows; });
  std::multimap<std::int64_t, std::size_t> room;  // left in windows
  for (const Piece& piece : rests) {
    const auto tightest = room.lower_bound(piece.rows);
    std::size_t window = windows.size();
    std::int64_t left = context;
    if (tightest == room.end()) {
      windows.emplace_back();
    } else {
      window = tightest->second;
      left = tightest->first;
      room.erase(tightest);
    }
    windows[window].push_back(piece);
    if (left > piece.rows) room.emplace(left - piece.rows, window);
  }
  Block packed;
  for (const std::vector<Piece>& window : windows) {
    packed.firsts.push_back(packed.pieces.size());
    packed.pieces.insert(packed.pieces.end(), window.begin(), window.end());
  }
  packed.firsts.push_back(packed.pieces.size());
  const std::int64_t counted = counts_.windows[static_cast<std::size_t>(block)];
  if (std::cmp_equal(windows.size(), counted)) return packed;
  const std::string found =
      fmt::format("the documents from {} on pack into {} windows of {}, not {}",
                  block * packing_block_documents, windows.size(), context, counted);
  if (source_.empty())
    throw InputFileError(file.path().string(), "its index changed while it was read: " + found);
  throw InputFileError(source_.string(),
                       fmt::format("was made of another index than {} has now: {}; "
                                   "remove it, and begin the run anew",
                                   file.path().string(), found));
}

std::vector<DocumentPacking::Piece> DocumentPacking::window(const TokenFile& file,
                                                            std::int64_t number) const {
  constexpr std::size_t most_kept = 1024;  // of some 100 kB each
  const auto after = std::upper_bound(first_windows_.begin(), first_windows_.end(), number);
  const std::int64_t block = after - first_windows_.begin() - 1;
  std::shared_ptr<const Block> packed;
  {
    const std::lock_guard lock(kept_->mutex);
    const auto known = kept_->blocks.find(block);
    if (known != kept_->blocks.end()) packed = known->second;
  }
  if (!packed) {
    packed = std::make_shared<const Block>(pack(file, block));
    const std::lock_guard lock(kept_->mutex);
    if (kept_->blocks.size() >= most_kept) kept_->blocks.clear();
    kept_->blocks.emplace(block, packed);
  }
  const auto inside =
      static_cast<std::size_t>(number - first_windows_[static_cast<std::size_t>(block)]);
  const auto begin = packed->pieces.begin();
  return {begin + static_cast<std::ptrdiff_t>(packed->firsts[inside]),
          begin + static_cast<std::ptrdiff_t>(packed->firsts[inside + 1])};
}

}  // namespace polymoe
