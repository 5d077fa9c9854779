// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace polymoe {

/// A permutation of 0 .. size - 1 that is a function of a key, computed element by element: a
/// balanced Feistel network over the next power of four, walked until it falls below size.
class Permutation {
 public:
  /// size >= 1.
  Permutation(std::int64_t size, std::uint64_t key, std::uint64_t epoch);
  /// Where `index` in [0, size) goes.
  std::int64_t operator()(std::int64_t index) const;

 private:
  std::uint64_t encrypt(std::uint64_t value) const;

  std::uint64_t size_, key_, epoch_;
  int half_bits_ = 1;
};

/// Which of several weighted sources each number of a sequence is taken from: after n numbers,
/// source f was used n * weight_f / sum of weights times, within one per source before it.
class Interleaving {
 public:
  struct Choice {
    std::size_t source = 0;
    std::int64_t ordinal = 0;  // how often the source was chosen before
  };

  /// Weights > 0. The seed shifts the pattern, and so does `number`, the sequence's among others.
  Interleaving(const std::vector<double>& weights, std::uint64_t seed, std::uint64_t number = 0);
  Choice operator()(std::int64_t index) const;
  /// How often each source is chosen among the first `numbers`.
  std::vector<std::int64_t> counts(std::int64_t numbers) const;

 private:
  // Of the numbers that reach a source, the share that it keeps; the rest goes on to the next.
  struct Split {
    std::uint64_t share;  // in units of 2^-32
    std::uint64_t phase;  // likewise, below 1
    std::int64_t kept(std::int64_t numbers) const;
  };
  std::vector<Split> splits_;
};

}  // namespace polymoe
