// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace polymoe {

/// A set of numbers in [0, size) that knows the next one: words of bits, and over them words that
/// say which are not zero.
class NumberSet {
 public:
  explicit NumberSet(std::int64_t size);
  void insert(std::int64_t number);
  void erase(std::int64_t number);
  /// The smallest that is at least `from`; -1 where there is none.
  std::int64_t next(std::int64_t from) const;

 private:
  std::vector<std::vector<std::uint64_t>> levels_;  // the numbers' own first
};

/// How many windows a block of documents packs into (see DocumentPacking), without packing it:
/// which window has how much room does not matter to that, only how many have it.
class PackedWindows {
 public:
  explicit PackedWindows(std::int64_t context);

  struct Count {
    std::int64_t windows = 0;
    std::int64_t rows = 0;
  };
  /// `bounds` are the block's document bounds. Uses its own memory: not thread-safe.
  Count count(std::span<const std::int64_t> bounds);

 private:
  std::int64_t context_;
  std::vector<std::int32_t> pieces_, windows_;  // by rows, by room that is left
  NumberSet shortages_, rooms_;  // context - rows of the pieces there are; rooms there are
};

}  // namespace polymoe
