// SPDX-License-Identifier: Apache-2.0
// Every fuzz target over a fixed number of mutations of its seeds, the same ones in every run.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/targets.h"

namespace polymoe {
namespace {

constexpr int mutations = 2000;

class Mutator {
 public:
  explicit Mutator(std::vector<std::string> seeds) : seeds_(std::move(seeds)) {}

  std::string next() {
    std::string bytes = seeds_[below(seeds_.size())];
    for (std::size_t changes = 1 + below(4); changes > 0; --changes) change(bytes);
    return bytes;
  }

 private:
  std::size_t below(std::size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  void change(std::string& bytes) {
    const std::size_t at = below(bytes.size());
    const std::size_t length = std::min(bytes.size() - at, 1 + below(16));
    switch (below(7)) {
      case 0:  // a bit
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:  // a byte
        if (!bytes.empty()) bytes[at] = static_cast<char>(below(256));
        break;
      case 2:  // a number at a border of its type
        write_number(bytes, at);
        break;
      case 3:
        bytes.erase(at, length);
        break;
      case 4:
        bytes.insert(at, bytes.substr(at, length));
        break;
      case 5:  // a part of another seed
      {
        const std::string& other = seeds_[below(seeds_.size())];
        const std::size_t from = below(other.size());
        bytes.replace(at, length, other.substr(from, 1 + below(64)));
        break;
      }
      default:
        if (below(4) == 0) bytes.resize(at);
    }
  }

  void write_number(std::string& bytes, std::size_t at) {
    constexpr std::array<std::int64_t, 8> borders = {
        0, 1, -1, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, std::int64_t{1} << 62};
    const std::int64_t number = borders[below(borders.size())];
    const std::size_t width = std::min(std::size_t{1} << below(4), bytes.size() - at);
    if (width > 0) std::memcpy(bytes.data() + at, &number, width);
  }

  std::vector<std::string> seeds_;
  std::mt19937_64 random_{20260101};
};

class Fuzz : public testing::TestWithParam<std::string> {};

TEST_P(Fuzz, SeedsAndTheirMutationsAreTakenOrRefused) {
  const fuzz::Target target = fuzz::find_target(GetParam());
  const std::vector<std::string> seeds = fuzz::seeds(GetParam());
  ASSERT_FALSE(seeds.empty());
  for (const std::string& seed : seeds) ASSERT_NO_THROW(target(seed));
  ASSERT_NO_THROW(target(""));
  Mutator mutator(seeds);
  for (int i = 0; i < mutations; ++i) {
    const std::string bytes = mutator.next();
    ASSERT_NO_THROW(target(bytes)) << "mutation " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Fuzz, testing::ValuesIn(fuzz::target_names()),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace polymoe
