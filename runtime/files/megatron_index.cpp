// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/megatron_index.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/error.h"

namespace polymoe {
namespace {

constexpr std::int64_t header_bytes = 9 + 8 + 1 + 8 + 8;
constexpr std::int64_t block = 1 << 14;  // entries read at a time

std::string str(std::int64_t value) { return std::to_string(value); }

}  // namespace

MegatronIndex::MegatronIndex(const std::filesystem::path& path) : file_(path) {
  const std::string name = path.string();
  std::array<char, header_bytes> header{};
  const auto present = std::min<std::int64_t>(header_bytes, file_.bytes());
  file_.read(0, header.data(), static_cast<std::size_t>(present));
  const auto value = [&]<class T>(T, std::size_t byte) {
    T loaded;
    std::memcpy(&loaded, header.data() + byte, sizeof loaded);
    return loaded;
  };
  constexpr std::string_view magic("MMIDIDX\0\0", 9);
  if (!std::string_view(header.data(), static_cast<std::size_t>(present)).starts_with(magic))
    throw InputFileError(name, "not a Megatron index: it does not start with MMIDIDX");
  if (present < header_bytes)
    throw InputFileError(
        name, "truncated: " + str(present) + " bytes, the header alone has " + str(header_bytes));
  const auto version = value(std::uint64_t{}, 9);
  if (version != 1)
    throw InputFileError(name,
                         "Megatron index version " + std::to_string(version) + ", expected 1");
  dtype_code_ = value(std::uint8_t{}, 17);
  const auto sequences = value(std::uint64_t{}, 18);
  const auto boundaries = value(std::uint64_t{}, 26);
  // Bounded by the file's size before any product, so that nothing overflows.
  const auto bytes = static_cast<std::uint64_t>(file_.bytes());
  const bool possible = sequences <= bytes / 12 && boundaries <= bytes / 8;
  const auto expected = header_bytes + sequences * 12 + boundaries * 8;
  if (!possible || expected != bytes)
    throw InputFileError(
        name, "the header says " + std::to_string(sequences) + " sequences and " +
                  std::to_string(boundaries) +
                  " document boundaries, which do not fit its size of " + std::to_string(bytes) +
                  " bytes" + (possible ? " (expected " + std::to_string(expected) + ")" : ""));
  sequences_ = static_cast<std::int64_t>(sequences);
  boundaries_ = static_cast<std::int64_t>(boundaries);
}

template <class T>
std::vector<T> MegatronIndex::entries(std::int64_t first_byte, std::int64_t begin,
                                      std::int64_t count) const {
  std::vector<T> values(static_cast<std::size_t>(count));
  file_.read(first_byte + begin * static_cast<std::int64_t>(sizeof(T)), values.data(),
             values.size() * sizeof(T));
  return values;
}

std::vector<std::int32_t> MegatronIndex::lengths(std::int64_t begin, std::int64_t count) const {
  return entries<std::int32_t>(header_bytes, begin, count);
}
std::vector<std::int64_t> MegatronIndex::offsets(std::int64_t begin, std::int64_t count) const {
  return entries<std::int64_t>(header_bytes + sequences_ * 4, begin, count);
}
std::vector<std::int64_t> MegatronIndex::boundaries(std::int64_t begin, std::int64_t count) const {
  return entries<std::int64_t>(header_bytes + sequences_ * 12, begin, count);
}

void MegatronIndex::attach(const std::filesystem::path& data, std::int64_t data_bytes,
                           int token_bytes) {
  data_ = data;
  data_bytes_ = data_bytes;
  token_bytes_ = token_bytes;
  const std::string name = file_.path().string();
  std::int64_t end = 0;
  if (sequences_ > 0) {
    const std::int64_t first = offsets(0, 1)[0];
    if (first != 0)
      throw InputFileError(name, "sequence 0 begins at byte " + str(first) + "; expected 0");
    const std::int64_t length = lengths(sequences_ - 1, 1)[0], at = offsets(sequences_ - 1, 1)[0];
    if (length < 0 || at < 0 || at > data_bytes || length * token_bytes > data_bytes - at)
      throw InputFileError(name, "sequence " + str(sequences_ - 1) + " has " + str(length) +
                                     " tokens at byte " + str(at) +
                                     "; expected an end within the " + str(data_bytes) +
                                     " bytes of " + data.string());
    end = at + length * token_bytes;
  }
  if (end != data_bytes)
    throw InputFileError(name, "its sequences end at byte " + str(end) + ", but " + data.string() +
                                   " has " + str(data_bytes) + " bytes");
  if (boundaries_ > 0 && boundaries(0, 1)[0] != 0)
    throw InputFileError(
        name, "document boundary 0 is sequence " + str(boundaries(0, 1)[0]) + "; expected 0");
  // Whoever never said where documents end left [0] alone, as Megatron's builder does.
  if (boundaries_ <= 1) return;
  const std::int64_t last = boundaries(boundaries_ - 1, 1)[0];
  if (last != sequences_)
    throw InputFileError(name,
                         "its documents end at sequence " + str(last) + " of " + str(sequences_));
  documents_ = boundaries_ - 1;
}

void MegatronIndex::check() const {
  const std::string name = file_.path().string();
  std::int64_t end = 0;
  for (std::int64_t first = 0; first < sequences_; first += block) {
    const std::int64_t count = std::min(block, sequences_ - first);
    const auto all_lengths = lengths(first, count);
    const auto all_offsets = offsets(first, count);
    for (std::size_t i = 0; i < all_lengths.size(); ++i) {
      const std::int64_t bytes = all_lengths[i] * token_bytes_;
      if (bytes < 0 || all_offsets[i] != end || bytes > data_bytes_ - end)
        throw InputFileError(name, "sequence " + str(first + static_cast<std::int64_t>(i)) +
                                       " has " + str(all_lengths[i]) + " tokens at byte " +
                                       str(all_offsets[i]) + "; expected byte " + str(end) +
                                       " and an end within the " + str(data_bytes_) + " bytes of " +
                                       data_.string());
      end += bytes;
    }
  }
  if (documents_ == 0) return;
  std::int64_t previous = 0;
  for (std::int64_t first = 0; first <= documents_; first += block) {
    const auto all = boundaries(first, std::min(block, documents_ + 1 - first));
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i] < previous || all[i] > sequences_)
        throw InputFileError(name, "document boundary " +
                                       str(first + static_cast<std::int64_t>(i)) + " is sequence " +
                                       str(all[i]) + "; expected " + str(previous) + " to " +
                                       str(sequences_));
      previous = all[i];
    }
  }
}

std::int64_t MegatronIndex::first_token(std::int64_t sequence) const {
  if (sequence < 0 || sequence > sequences_)
    throw InputFileError(file_.path().string(), "a document begins at sequence " + str(sequence) +
                                                    " of " + str(sequences_));
  const std::int64_t byte = sequence == sequences_ ? data_bytes_ : offsets(sequence, 1)[0];
  if (byte < 0 || byte > data_bytes_ || byte % token_bytes_ != 0)
    throw InputFileError(file_.path().string(), "sequence " + str(sequence) + " begins at byte " +
                                                    str(byte) + " of the " + str(data_bytes_) +
                                                    " bytes of " + data_.string());
  return byte / token_bytes_;
}

MegatronIndex::Range MegatronIndex::document(std::int64_t i) const {
  const std::string name = file_.path().string();
  const auto ends = boundaries(i, 2);
  if (ends[0] < 0 || ends[1] < ends[0] || ends[1] > sequences_)
    throw InputFileError(name, "document " + str(i) + " has sequences " + str(ends[0]) + " to " +
                                   str(ends[1]) + " of " + str(sequences_));
  const std::int64_t begin = first_token(ends[0]);
  std::int64_t end = begin;
  for (std::int64_t first = ends[0]; first < ends[1]; first += block) {
    const std::int64_t count = std::min(block, ends[1] - first);
    const auto all_lengths = lengths(first, count);
    const auto all_offsets = offsets(first, count);
    for (std::size_t j = 0; j < all_lengths.size(); ++j) {
      if (all_lengths[j] < 0 || all_offsets[j] != end * token_bytes_ ||
          all_lengths[j] * token_bytes_ > data_bytes_ - all_offsets[j])
        throw InputFileError(name, "sequence " + str(first + static_cast<std::int64_t>(j)) +
                                       " has " + str(all_lengths[j]) + " tokens at byte " +
                                       str(all_offsets[j]) + "; expected byte " +
                                       str(end * token_bytes_));
      end += all_lengths[j];
    }
  }
  if (first_token(ends[1]) != end)
    throw InputFileError(name, "document " + str(i) + " ends at token " + str(end) +
                                   ", but the next begins at " + str(first_token(ends[1])));
  return {begin, end};
}

std::vector<std::int64_t> MegatronIndex::document_bounds(std::int64_t first,
                                                         std::int64_t count) const {
  const std::string name = file_.path().string();
  std::vector<std::int64_t> bounds = boundaries(first, count + 1);
  // Sequences, of which the offsets are read some at a time.
  const std::int64_t most = std::min(bounds.back(), sequences_ - 1);
  std::vector<std::int64_t> some;
  std::int64_t some_begin = 0, previous = 0;
  for (std::size_t i = 0; i < bounds.size(); ++i) {
    const std::int64_t sequence = bounds[i];
    if (sequence < 0 || sequence > sequences_) first_token(sequence);  // says what is wrong
    if (sequence < sequences_ &&
        (some.empty() || sequence < some_begin ||
         sequence >= some_begin + static_cast<std::int64_t>(some.size()))) {
      some_begin = sequence;
      some = offsets(sequence, std::clamp<std::int64_t>(most - sequence + 1, 1, block));
    }
    const std::int64_t byte = sequence == sequences_
                                  ? data_bytes_
                                  : some[static_cast<std::size_t>(sequence - some_begin)];
    if (byte % token_bytes_ != 0 || byte > data_bytes_ || byte / token_bytes_ < previous)
      throw InputFileError(name, "document " + str(first + static_cast<std::int64_t>(i)) +
                                     " begins at byte " + str(byte) + " of the " +
                                     str(data_bytes_) + " bytes of " + data_.string() +
                                     "; expected " + str(previous * token_bytes_) + " or more");
    bounds[i] = previous = byte / token_bytes_;
  }
  return bounds;
}

std::vector<std::int64_t> MegatronIndex::document_starts(std::int64_t begin,
                                                         std::int64_t end) const {
  // The first document that begins at `begin` or behind it.
  std::int64_t low = 0, high = documents_;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (first_token(boundaries(middle, 1)[0]) < begin)
      low = middle + 1;
    else
      high = middle;
  }
  std::vector<std::int64_t> starts;
  constexpr std::int64_t some = 64;
  for (std::int64_t document = low; document < documents_; document += some) {
    for (const std::int64_t sequence :
         boundaries(document, std::min(some, documents_ - document))) {
      const std::int64_t token = first_token(sequence);
      if (token >= end) return starts;
      if (token < begin || (!starts.empty() && token < starts.back()))
        throw InputFileError(file_.path().string(), "sequence " + str(sequence) +
                                                        " begins at token " + str(token) +
                                                        ", before one that precedes it");
      if (starts.empty() || token != starts.back()) starts.push_back(token);
    }
  }
  return starts;
}

}  // namespace polymoe
