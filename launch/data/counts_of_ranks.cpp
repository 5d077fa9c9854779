// SPDX-License-Identifier: Apache-2.0
#include "launch/data/counts_of_ranks.h"

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/data/window_counts.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/packed.h"
#include "runtime/error.h"
#include "runtime/files/token_file.h"

namespace polymoe {
namespace {

void pack(Packer& packer, const std::vector<std::int64_t>& numbers) {
  packer.text({reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof numbers[0]});
}

std::vector<std::int64_t> unpack_numbers(Unpacker& unpacker) {
  const std::string bytes = unpacker.text();
  std::vector<std::int64_t> numbers(bytes.size() / sizeof(std::int64_t));
  if (numbers.empty()) return numbers;
  std::memcpy(numbers.data(), bytes.data(), numbers.size() * sizeof numbers[0]);
  return numbers;
}

/// What rank 0 finds kept; counts is empty where nothing is.
std::vector<KeptWindowCounts> find_kept(const std::vector<TokenFile>& files, std::int64_t context,
                                        const std::filesystem::path& directory,
                                        Communicator& ranks) {
  const std::string packed = on_first_rank(ranks, [&] {
    Packer packer;
    for (const TokenFile& file : files) {
      const KeptWindowCounts kept = kept_window_counts(file, context, directory);
      packer.text(kept.from.string()).text(kept.warning).number(kept.counts.has_value() ? 1 : 0);
      if (!kept.counts) continue;
      packer.number(kept.counts->rows);
      pack(packer, kept.counts->windows);
    }
    return packer.take();
  });
  std::vector<KeptWindowCounts> all(files.size());
  Unpacker unpacker(packed);
  for (KeptWindowCounts& kept : all) {
    kept.from = unpacker.text();
    kept.warning = unpacker.text();
    if (unpacker.number() == 0) continue;
    WindowCounts& counts = kept.counts.emplace();
    counts.context = context;
    counts.rows = unpacker.number();
    counts.windows = unpack_numbers(unpacker);
  }
  return all;
}

/// The counts of these files, each rank those of its share of the blocks.
std::vector<WindowCounts> count_together(const std::vector<const TokenFile*>& files,
                                         std::int64_t context, Communicator& ranks) {
  std::string mine;
  on_every_rank(ranks, [&] {
    Packer packer;
    for (const TokenFile* file : files) {
      const std::int64_t blocks = packing_blocks(*file);
      const WindowCounts share = count_windows(*file, {&context, 1},
                                               {.first = blocks * ranks.rank() / ranks.size(),
                                                .last = blocks * (ranks.rank() + 1) / ranks.size()})
                                     .front();
      packer.number(file->documents()).number(share.rows);
      pack(packer, share.windows);
    }
    mine = packer.take();
  });
  const std::vector<std::string> shares = gather_text(mine, ranks);
  const std::string packed = on_first_rank(ranks, [&] {
    std::vector<WindowCounts> all(files.size());
    for (std::size_t rank = 0; rank < shares.size(); ++rank) {
      Unpacker unpacker(shares[rank]);
      for (std::size_t i = 0; i < files.size(); ++i) {
        const std::int64_t documents = unpacker.number();
        if (documents != files[i]->documents())
          throw InputFileError(
              files[i]->path().string(),
              fmt::format("has {} documents where rank {} runs, {} where rank 0 does: all ranks "
                          "must see the same file",
                          documents, rank, files[i]->documents()));
        all[i].rows += unpacker.number();
        const std::vector<std::int64_t> windows = unpack_numbers(unpacker);
        all[i].windows.insert(all[i].windows.end(), windows.begin(), windows.end());
      }
    }
    Packer packer;
    for (const WindowCounts& counts : all) {
      packer.number(counts.rows);
      pack(packer, counts.windows);
    }
    return packer.take();
  });
  std::vector<WindowCounts> all;
  for (Unpacker unpacker(packed); !unpacker.done();) {
    const std::int64_t rows = unpacker.number();
    all.push_back({.context = context, .rows = rows, .windows = unpack_numbers(unpacker)});
  }
  return all;
}

}  // namespace

std::map<std::string, FoundWindowCounts> window_counts_of_ranks(
    const std::vector<std::string>& paths, int token_bytes, std::int64_t context,
    const std::filesystem::path& directory, Communicator& ranks) {
  std::vector<TokenFile> files;
  on_every_rank(ranks, [&] {
    for (const std::string& path : paths) files.push_back(TokenFile::open(path, token_bytes));
  });
  std::vector<KeptWindowCounts> kept = find_kept(files, context, directory, ranks);
  std::vector<const TokenFile*> uncounted;
  for (std::size_t i = 0; i < files.size(); ++i)
    if (!kept[i].counts) uncounted.push_back(&files[i]);
  std::vector<WindowCounts> counted;
  if (!uncounted.empty()) counted = count_together(uncounted, context, ranks);
  std::map<std::string, FoundWindowCounts> found;
  std::size_t next = 0;
  for (std::size_t i = 0; i < files.size(); ++i)
    found.emplace(paths[i],
                  kept_or_counted(std::move(kept[i]), [&] { return std::move(counted[next++]); }));
  return found;
}

}  // namespace polymoe
