// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "launch/config/config.h"
#include "runtime/files/token_file.h"

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

  /// Weights > 0. The seed shifts the pattern.
  Interleaving(const std::vector<double>& weights, std::uint64_t seed);
  Choice operator()(std::int64_t index) const;

 private:
  // Of the numbers that reach a source, the share that it keeps; the rest goes on to the next.
  struct Split {
    std::uint64_t share;  // in units of 2^-32
    std::uint64_t phase;  // likewise, below 1
    std::int64_t kept(std::int64_t numbers) const;
  };
  std::vector<Split> splits_;
};

/// The training samples of a run: sample i is a function of (files, context, seed, i) alone, so
/// that nothing depends on the number of ranks and a resumed run goes on where it stopped.
///
/// A file is cut into windows of context + 1 tokens, stride context. The files take turns by
/// weight, and each file's windows come in a seeded order, every one of them once before any comes
/// again; the order of the next pass is another one.
class TokenData {
 public:
  /// Throws InputFileError when a file cannot be used or holds no whole window.
  TokenData(const DataConfig& config, std::int64_t context, std::uint64_t seed);

  std::int64_t context() const { return context_; }
  /// Over all files.
  std::int64_t tokens() const;
  const std::vector<TokenFile>& files() const { return files_; }

  /// Reads every token once. Throws InputFileError with file, position and id of the first token
  /// outside [0, vocab).
  void check_vocabulary(std::int64_t vocab) const;

  /// tokens[j] = window[j], targets[j] = window[j + 1], j in [0, context). Thread-safe.
  void sample(std::int64_t index, std::int32_t* tokens, std::int32_t* targets) const;

 private:
  std::vector<TokenFile> files_;
  std::vector<std::int64_t> windows_;  // per file
  std::vector<std::uint64_t> keys_;    // per file
  std::int64_t context_;
  Interleaving interleaving_;
};

}  // namespace polymoe
