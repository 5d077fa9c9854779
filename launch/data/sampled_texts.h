// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace polymoe {

/// Texts of a stream whose length nobody knows: all of them, in their order, or where they exceed a
/// number of bytes a sample of them below it. The same texts and seed give the same sample.
class SampledTexts {
 public:
  SampledTexts(std::int64_t most_bytes, std::uint64_t seed)
      : most_bytes_(most_bytes), seed_(seed) {}

  void add(std::string text);
  /// How much the kept texts take.
  std::int64_t bytes() const { return bytes_; }
  std::vector<std::string> take() const;

 private:
  struct Kept {
    std::uint64_t rank;  // random; those below the threshold are kept
    std::string text;
  };
  void halve();

  std::int64_t most_bytes_;
  std::uint64_t seed_;
  std::uint64_t threshold_ = ~std::uint64_t{0};
  std::int64_t seen_ = 0, bytes_ = 0;
  std::vector<Kept> kept_;
};

}  // namespace polymoe
