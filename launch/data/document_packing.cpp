// SPDX-License-Identifier: Apache-2.0
#include "launch/data/document_packing.h"

#include <algorithm>
#include <exception>
#include <numeric>

#include "launch/data/packed_windows.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

std::vector<std::int64_t> bounds_of(const TokenFile& file, std::int64_t block) {
  const std::int64_t first = block * DocumentPacking::block_documents;
  return file.document_bounds(first,
                              std::min(DocumentPacking::block_documents, file.documents() - first));
}

}  // namespace

DocumentPacking::DocumentPacking(const TokenFile& file, std::int64_t context) : context_(context) {
  const std::int64_t blocks = (file.documents() + block_documents - 1) / block_documents;
  first_windows_.assign(static_cast<std::size_t>(blocks) + 1, 0);
  std::exception_ptr failure;
  std::int64_t rows = 0;
#pragma omp parallel reduction(+ : rows)
  {
    PackedWindows packed(context);
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < blocks; ++i) {
      try {
        const PackedWindows::Count count = packed.count(bounds_of(file, i));
        first_windows_[static_cast<std::size_t>(i) + 1] = count.windows;
        rows += count.rows;
      } catch (...) {
#pragma omp critical(document_packing)
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
  rows_ = rows;
  std::partial_sum(first_windows_.begin(), first_windows_.end(), first_windows_.begin());
}

DocumentPacking::Block DocumentPacking::pack(const TokenFile& file, std::int64_t block) const {
  const std::vector<std::int64_t> bounds = bounds_of(file, block);
  std::vector<std::vector<Piece>> windows;
  std::vector<Piece> rests;
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
    Piece rest{.begin = bounds[i], .rows = bounds[i + 1] - bounds[i] - 1};
    for (; rest.rows >= context_; rest.rows -= context_, rest.begin += context_)
      windows.push_back({{.begin = rest.begin, .rows = context_}});
    if (rest.rows > 0) rests.push_back(rest);
  }
  std::stable_sort(rests.begin(), rests.end(),
                   [](const Piece& a, const Piece& b) { return a.rows > b.rows; });
  std::multimap<std::int64_t, std::size_t> room;  // left in windows
  for (const Piece& piece : rests) {
    const auto tightest = room.lower_bound(piece.rows);
    std::size_t window = windows.size();
    std::int64_t left = context_;
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
  return packed;
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
  if (inside + 1 >= packed->firsts.size())
    throw InputFileError(file.path().string(), "its index changed while it was read");
  const auto begin = packed->pieces.begin();
  return {begin + static_cast<std::ptrdiff_t>(packed->firsts[inside]),
          begin + static_cast<std::ptrdiff_t>(packed->firsts[inside + 1])};
}

}  // namespace polymoe
