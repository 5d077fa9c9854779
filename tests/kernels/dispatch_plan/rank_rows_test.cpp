// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch_plan/rank_rows.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/random.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::poisoned_tensor;
using test::tensor_of;
using test::values_of;

// Ranks of two experts each; this is rank 1, which has experts 2 and 3.
constexpr ExpertRanks ranks{.experts_per_rank = 2, .own = 1, .ranks = 4};

struct Leaving {
  std::vector<double> kept_ids, leaving_ranks;
};

Leaving leaving_of(const std::vector<double>& ids, const std::vector<double>& rows,
                   std::int64_t top_k) {
  Stream stream(Device::cpu());
  const Shape shape{static_cast<std::int64_t>(ids.size()) / top_k, top_k};
  const OwnedTensor kept = tensor_of(shape, DType::i32, rows);  // in place
  const OwnedTensor leaving = poisoned_tensor(shape, DType::i32);
  find_leaving_ranks(ranks, *tensor_of(shape, DType::i32, ids), *kept, *kept, *leaving, stream);
  return {values_of(*kept), values_of(*leaving)};
}

TEST(RankRows, ATokenLeavesOnceForEachRankOfItsExperts) {
  // Ranks of the experts: 0 0 2 1 and 3 1 2 3.
  const Leaving leaving = leaving_of({1, 0, 5, 2, 7, 3, 4, 6}, {10, 11, 12, 13, 14, 15, 16, 17}, 4);
  EXPECT_EQ(leaving.kept_ids, (std::vector<double>{1, 0, 5, 2, 7, 3, 4, 6}));
  EXPECT_EQ(leaving.leaving_ranks, (std::vector<double>{0, -1, 2, -1, 3, -1, 2, -1}));
}

TEST(RankRows, ADroppedSlotSendsNothing) {
  // The first slot of rank 0 is dropped: the second one sends the row. Of rank 2 all are.
  const Leaving leaving = leaving_of({1, 0, 5, 2}, {-1, 3, -1, 0}, 4);
  EXPECT_EQ(leaving.kept_ids, (std::vector<double>{-1, 0, -1, 2}));
  EXPECT_EQ(leaving.leaving_ranks, (std::vector<double>{-1, 0, -1, -1}));
}

TEST(RankRows, AGroupThatHasSomeOfTheExpertsCountsItsOwn) {
  Stream stream(Device::cpu());
  // Experts 4 to 7 on two ranks, of which this is the second. Dropped slots may be named by the
  // ids.
  const ExpertRanks node{.experts_per_rank = 2, .own = 1, .first_expert = 4, .ranks = 2};
  const OwnedTensor ids = tensor_of({2, 4}, DType::i32, {1, 5, 8, 4, 6, -1, 4, 3});
  const OwnedTensor kept = poisoned_tensor({2, 4}, DType::i32);
  const OwnedTensor leaving = poisoned_tensor({2, 4}, DType::i32);
  find_leaving_ranks(node, *ids, *ids, *kept, *leaving, stream);
  EXPECT_EQ(values_of(*kept), (std::vector<double>{-1, 1, -1, 0, 2, -1, 0, -1}));
  EXPECT_EQ(values_of(*leaving), (std::vector<double>{-1, 0, -1, -1, -1, -1, 0, -1}));
}

TEST(RankRows, AtHomeATokenAddsOneRowOfEachRankOfItsExperts) {
  Stream stream(Device::cpu());
  // The second token has a dropped slot before the one that sent its row.
  const OwnedTensor kept = tensor_of({2, 4}, DType::i32, {1, 2, 0, 5, -1, 6, 3, 7});
  const OwnedTensor leaving = tensor_of({2, 4}, DType::i32, {0, -1, -1, 1, -1, 2, -1, -1});
  // Two tokens' own rows, then three of others.
  find_home_rows(ranks, *kept, *leaving, *leaving, *kept, stream);
  EXPECT_EQ(values_of(*leaving), (std::vector<double>{2, 0, -1, 3, -1, 4, 1, -1}));
  EXPECT_EQ(values_of(*kept), (std::vector<double>{8, 1, 10, 15, -1, 17, 6, 19}));
}

TEST(RankRows, RefusesMoreValuesThanAreNumbered) {
  Stream stream(Device::meta());
  const OwnedTensor ids({std::int64_t{1} << 25, 8}, DType::i32, Device::meta());
  try {
    find_home_rows(ranks, *ids, *ids, *ids, *ids, stream);
    FAIL() << "accepted 2^31 values and more";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(),
                 "find_home_rows: 33554432 tokens of 8 slots have more values than 2147483647; a "
                 "smaller train.micro_batch has fewer");
  }
}

class RankRowsDevices : public test::OnDevice {};

INSTANTIATE_TEST_SUITE_P(Devices, RankRowsDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(RankRowsDevices, EqualTheCpus) {
  Stream host(Device::cpu());
  const RandomStream random(7, "routing");
  const ExpertRanks eight{.experts_per_rank = 5, .own = 3, .ranks = 8};
  for (const std::int64_t tokens : {0, 1, 3000}) {
    const Shape shape{tokens, 6};
    std::vector<double> ids, rows;
    for (std::uint64_t s = 0; s < static_cast<std::uint64_t>(6 * tokens); ++s) {
      ids.push_back(static_cast<double>(random.bits(2 * s) % 40));
      rows.push_back(random.bits(2 * s + 1) % 5 == 0 ? -1.0 : static_cast<double>(s));
    }
    const OwnedTensor id = tensor_of(shape, DType::i32, ids), device_id = moved(*id);
    const OwnedTensor row = tensor_of(shape, DType::i32, rows), device_row = moved(*row);
    const OwnedTensor kept = poisoned_tensor(shape, DType::i32);
    const OwnedTensor leaving = poisoned_tensor(shape, DType::i32);
    find_leaving_ranks(eight, *id, *row, *kept, *leaving, host);
    const OwnedTensor device_kept = poisoned(shape, DType::i32);
    const OwnedTensor device_leaving = poisoned(shape, DType::i32);
    find_leaving_ranks(eight, *device_id, *device_row, *device_kept, *device_leaving, stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(*device_kept), *kept)) << tokens;
    EXPECT_TRUE(test::bitwise_equal(*fetched(*device_leaving), *leaving)) << tokens;
    // Any rows do where they are only looked up.
    find_home_rows(eight, *kept, *leaving, *leaving, *kept, host);
    find_home_rows(eight, *device_kept, *device_leaving, *device_leaving, *device_kept, stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(*device_kept), *kept)) << tokens;
    EXPECT_TRUE(test::bitwise_equal(*fetched(*device_leaving), *leaving)) << tokens;
  }
}

}  // namespace
}  // namespace polymoe
