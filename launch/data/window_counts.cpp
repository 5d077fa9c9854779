// SPDX-License-Identifier: Apache-2.0
#include "launch/data/window_counts.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/data/file_identity.h"
#include "launch/data/packed_windows.h"
#include "runtime/error.h"
#include "runtime/files/file.h"
#include "runtime/files/hash.h"
#include "runtime/files/json.h"
#include "runtime/files/token_file.h"
#include "runtime/rounding.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

// A file of counts: the magic, the header's length, the header (JSON), its hash, and for each
// context the counts of all blocks.
constexpr std::string_view magic = "PMWINDOW";
constexpr std::int64_t version = 1, most_header_bytes = 1 << 20, hash_bytes = 32;
constexpr std::int64_t counted_again = 8;  // blocks

/// By the file's place, not by its content: what is known of that at a start is a sample, which
/// files that differ may share. Whether the content is still the same one the counts themselves
/// say.
fs::path path_in(const fs::path& directory, const TokenFile& file, std::int64_t context) {
  std::error_code ignored;
  fs::path place = fs::canonical(file.path(), ignored);
  if (ignored) place = fs::absolute(file.path());
  return directory /
         fmt::format("{}-{}-{}.windows", place.stem().string(), xxh3_of(place.string()), context);
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

}  // namespace

std::vector<std::int64_t> bounds_of_packing_block(const TokenFile& file, std::int64_t block) {
  const std::int64_t first = block * packing_block_documents;
  return file.document_bounds(first, std::min(packing_block_documents, file.documents() - first));
}

std::int64_t packing_blocks(const TokenFile& file) {
  return divide_up(file.documents(), packing_block_documents);
}

std::vector<WindowCounts> count_windows(const TokenFile& file,
                                        std::span<const std::int64_t> contexts) {
  return count_windows(file, contexts, {.first = 0, .last = packing_blocks(file)});
}

std::vector<WindowCounts> count_windows(const TokenFile& file,
                                        std::span<const std::int64_t> contexts, BlockRange range) {
  const std::int64_t blocks = range.last - range.first;
  std::vector<WindowCounts> counts;
  for (const std::int64_t context : contexts)
    counts.push_back({.context = context,
                      .windows = std::vector<std::int64_t>(static_cast<std::size_t>(blocks))});
  std::exception_ptr failure;
  std::int64_t rows = 0;  // whatever the context
#pragma omp parallel reduction(+ : rows)
  {
    std::vector<PackedWindows> packed;
    for (const std::int64_t context : contexts) packed.emplace_back(context);
#pragma omp for schedule(dynamic)
    for (std::int64_t block = 0; block < blocks; ++block) {
      try {
        const std::vector<std::int64_t> bounds = bounds_of_packing_block(file, range.first + block);
        for (std::size_t i = 0; i < packed.size(); ++i) {
          const PackedWindows::Count count = packed[i].count(bounds);
          counts[i].windows[static_cast<std::size_t>(block)] = count.windows;
          if (i == 0) rows += count.rows;
        }
      } catch (...) {
#pragma omp critical(window_counts)
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
  for (WindowCounts& count : counts) count.rows = rows;
  return counts;
}

std::span<const std::int64_t> usual_contexts() {
  static constexpr std::array<std::int64_t, 9> contexts = {512,   1024,  2048,  4096,  8192,
                                                           16384, 32768, 65536, 131072};
  return contexts;
}

fs::path window_counts_path(fs::path file) { return file.replace_extension(".windows"); }

void write_window_counts(const fs::path& path, const TokenFile& file,
                         std::span<const WindowCounts> counts) {
  const FileIdentity identity = FileIdentity::of(file, "");
  Json parts = Json::array();
  std::string content;
  for (const WindowCounts& part : counts) {
    const std::string_view bytes(reinterpret_cast<const char*>(part.windows.data()),
                                 part.windows.size() * sizeof part.windows[0]);
    Json json = Json::object();
    json.set("context", part.context).set("rows", part.rows).set("hash", xxh3_of(bytes));
    parts.add(std::move(json));
    content += bytes;
  }
  Json header = Json::object();
  header.set("version", version)
      .set("block_documents", packing_block_documents)
      .set("documents", identity.documents)
      .set("tokens", identity.tokens)
      .set("bytes", identity.bytes)
      .set("hash", identity.hash)
      .set("counts", std::move(parts));
  const std::string text = header.dump();
  const auto length = static_cast<std::int64_t>(text.size());
  std::string front(magic);
  front.append(reinterpret_cast<const char*>(&length), sizeof length);
  replace_file(path, front + text + xxh3_of(text) + content);
}

WindowCountsFile::WindowCountsFile(const fs::path& path, const TokenFile& file)
    : path_(path), blocks_(packing_blocks(file)) {
  const InputFile input(path);
  const auto damaged = [&](const std::string& what) {
    throw InputFileError(path.string(), "is no file of counts of windows, or damaged: " + what);
  };
  std::array<char, magic.size() + sizeof(std::int64_t)> front{};
  if (std::cmp_less(input.bytes(), front.size())) damaged("it is too short");
  input.read(0, front.data(), front.size());
  if (std::string_view(front.data(), magic.size()) != magic)
    damaged("it does not begin with " + std::string(magic));
  std::int64_t length = 0;
  std::memcpy(&length, front.data() + magic.size(), sizeof length);
  const auto begin = static_cast<std::int64_t>(front.size());
  if (length < 0 || length > most_header_bytes || length > input.bytes() - begin - hash_bytes)
    damaged(fmt::format("a header of {} bytes", length));
  std::string text(static_cast<std::size_t>(length + hash_bytes), '\0');
  input.read(begin, text.data(), text.size());
  const std::string hash = text.substr(static_cast<std::size_t>(length));
  text.resize(static_cast<std::size_t>(length));
  if (xxh3_of(text) != hash) damaged("its header has another hash");
  first_byte_ = begin + length + hash_bytes;
  try {
    const Json header = parse_json(text, path.string());
    const std::int64_t its_version = header.at("version").as_integer();
    if (its_version != version)
      throw InputFileError(
          path.string(), fmt::format("is of version {}; this one reads {}", its_version, version));
    if (header.at("block_documents").as_integer() != packing_block_documents)
      damaged("blocks of another size");
    const FileIdentity before{.path = "",
                              .bytes = header.at("bytes").as_integer(0),
                              .tokens = header.at("tokens").as_integer(0),
                              .documents = header.at("documents").as_integer(0),
                              .hash = header.at("hash").as_string()};
    const std::string difference = FileIdentity::of(file, "").difference_to(before);
    if (!difference.empty())
      throw InputFileError(path.string(), fmt::format("was made of other tokens: {} {}",
                                                      file.path().string(), difference));
    for (const Json& part : header.at("counts").items()) {
      contexts_.push_back(part.at("context").as_integer(1));
      parts_.push_back(
          {.rows = part.at("rows").as_integer(0), .hash = part.at("hash").as_string()});
    }
  } catch (const InvalidArgument& error) {
    damaged(error.what());
  }
  const auto bytes = static_cast<std::int64_t>(parts_.size()) * blocks_ *
                     static_cast<std::int64_t>(sizeof(std::int64_t));
  if (input.bytes() != first_byte_ + bytes)
    damaged(fmt::format("it has {} bytes instead of {}", input.bytes(), first_byte_ + bytes));
}

std::optional<WindowCounts> WindowCountsFile::read(const TokenFile& file,
                                                   std::int64_t context) const {
  const auto found = std::find(contexts_.begin(), contexts_.end(), context);
  if (found == contexts_.end()) return std::nullopt;
  const auto number = static_cast<std::size_t>(found - contexts_.begin());
  WindowCounts counts{.context = context,
                      .rows = parts_[number].rows,
                      .windows = std::vector<std::int64_t>(static_cast<std::size_t>(blocks_))};
  const std::size_t bytes = counts.windows.size() * sizeof counts.windows[0];
  InputFile(path_).read(first_byte_ + static_cast<std::int64_t>(number * bytes),
                        counts.windows.data(), bytes);
  if (xxh3_of({reinterpret_cast<const char*>(counts.windows.data()), bytes}) != parts_[number].hash)
    throw InputFileError(path_.string(),
                         fmt::format("is damaged: its counts for {} have another hash", context));
  PackedWindows packed(context);
  const std::int64_t again = std::min(counted_again, blocks_);
  for (std::int64_t i = 0; i < again; ++i) {
    const std::int64_t block = again == 1 ? 0 : i * (blocks_ - 1) / (again - 1);
    const std::int64_t now = packed.count(bounds_of_packing_block(file, block)).windows;
    const std::int64_t kept = counts.windows[static_cast<std::size_t>(block)];
    if (now != kept)
      throw InputFileError(path_.string(),
                           fmt::format("was made of another index: the documents from {} on pack "
                                       "into {} windows of {}, not {}",
                                       block * packing_block_documents, now, context, kept));
  }
  return counts;
}

KeptWindowCounts kept_window_counts(const TokenFile& file, std::int64_t context,
                                    const fs::path& directory) {
  KeptWindowCounts kept;
  std::vector<fs::path> places = {window_counts_path(file.path())};
  if (!directory.empty() && is_there(directory))
    places.push_back(path_in(directory, file, context));
  for (const fs::path& place : places) {
    if (!is_there(place)) continue;
    try {
      kept.counts = WindowCountsFile(place, file).read(file, context);
      if (kept.counts) {
        kept.from = place;
        break;
      }
    } catch (const InputFileError& error) {
      kept.warning = error.what();
    }
  }
  return kept;
}

FoundWindowCounts kept_or_counted(KeptWindowCounts kept,
                                  const std::function<WindowCounts()>& count) {
  FoundWindowCounts found{
      .counts = {}, .from = std::move(kept.from), .warning = std::move(kept.warning)};
  if (kept.counts) {
    found.counts = std::move(*kept.counts);
    return found;
  }
  found.counts = count();
  if (!found.warning.empty()) found.warning += "; the windows are counted anew";
  return found;
}

FoundWindowCounts find_window_counts(const TokenFile& file, std::int64_t context,
                                     const fs::path& directory) {
  return kept_or_counted(kept_window_counts(file, context, directory), [&] {
    return count_windows(file, {&context, 1}).front();
  });
}

fs::path keep_window_counts(const TokenFile& file, const WindowCounts& counts,
                            const fs::path& directory) {
  make_directories(directory);
  const fs::path path = path_in(directory, file, counts.context);
  write_window_counts(path, file, {&counts, 1});
  return path;
}

}  // namespace polymoe
