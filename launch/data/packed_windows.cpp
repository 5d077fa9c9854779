// SPDX-License-Identifier: Apache-2.0
#include "launch/data/packed_windows.h"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "runtime/rounding.h"

namespace polymoe {
namespace {

constexpr std::int64_t word_bits = 64;

std::uint64_t bit_of(std::int64_t number) {
  return std::uint64_t{1} << static_cast<std::uint64_t>(number % word_bits);
}

}  // namespace

NumberSet::NumberSet(std::int64_t size) {
  do {
    size = divide_up(size, word_bits);
    levels_.emplace_back(static_cast<std::size_t>(size), 0);
  } while (size > 1);
}

void NumberSet::insert(std::int64_t number) {
  for (std::vector<std::uint64_t>& level : levels_) {
    std::uint64_t& word = level[static_cast<std::size_t>(number / word_bits)];
    const bool was_empty = word == 0;
    word |= bit_of(number);
    if (!was_empty) return;
    number /= word_bits;
  }
}

void NumberSet::erase(std::int64_t number) {
  for (std::vector<std::uint64_t>& level : levels_) {
    std::uint64_t& word = level[static_cast<std::size_t>(number / word_bits)];
    word &= ~bit_of(number);
    if (word != 0) return;
    number /= word_bits;
  }
}

std::int64_t NumberSet::next(std::int64_t from) const {
  // Up to the first level that has something behind, then down to its first number.
  for (std::size_t level = 0; level < levels_.size(); ++level) {
    const auto place = static_cast<std::size_t>(from / word_bits);
    if (place >= levels_[level].size()) return -1;
    const std::uint64_t behind =
        levels_[level][place] >> static_cast<std::uint64_t>(from % word_bits);
    if (behind == 0) {
      from = static_cast<std::int64_t>(place) + 1;
      continue;
    }
    std::int64_t number = from + std::countr_zero(behind);
    while (level-- > 0)
      number =
          number * word_bits + std::countr_zero(levels_[level][static_cast<std::size_t>(number)]);
    return number;
  }
  return -1;
}

PackedWindows::PackedWindows(std::int64_t context)
    : context_(context),
      pieces_(static_cast<std::size_t>(context), 0),
      windows_(static_cast<std::size_t>(context), 0),
      shortages_(context),
      rooms_(context) {}

PackedWindows::Count PackedWindows::count(std::span<const std::int64_t> bounds) {
  Count result;
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
    const std::int64_t rows = bounds[i + 1] - bounds[i] - 1;
    if (rows < 1) continue;
    result.rows += rows;
    result.windows += rows / context_;
    const std::int64_t rest = rows % context_;
    if (rest > 0 && pieces_[static_cast<std::size_t>(rest)]++ == 0)
      shortages_.insert(context_ - rest);
  }
  // From the longest on.
  for (std::int64_t shortage = shortages_.next(0); shortage >= 0;
       shortage = shortages_.next(shortage)) {
    shortages_.erase(shortage);
    const std::int64_t rows = context_ - shortage;
    for (std::int32_t left = std::exchange(pieces_[static_cast<std::size_t>(rows)], 0); left > 0;
         --left) {
      std::int64_t room = rooms_.next(rows);
      if (room < 0) {
        ++result.windows;
        room = context_;
      } else if (--windows_[static_cast<std::size_t>(room)] == 0) {
        rooms_.erase(room);
      }
      room -= rows;
      if (room > 0 && windows_[static_cast<std::size_t>(room)]++ == 0) rooms_.insert(room);
    }
  }
  for (std::int64_t room = rooms_.next(0); room >= 0; room = rooms_.next(room)) {
    rooms_.erase(room);
    windows_[static_cast<std::size_t>(room)] = 0;
  }
  return result;
}

}  // namespace polymoe
