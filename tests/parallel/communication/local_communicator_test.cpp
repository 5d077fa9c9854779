// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/local/local_communicator.h"

#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "runtime/error.h"
#include "tests/parallel/communication/collective_checks.h"
#include "tests/support/run_ranks.h"

namespace polymoe {
namespace {

class LocalCollectives : public testing::TestWithParam<std::tuple<int, CollectiveCheck>> {};

TEST_P(LocalCollectives, Hold) {
  const auto& [ranks, check] = GetParam();
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    check.run({*world});
    world->shutdown();
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalCollectives,
                         testing::Combine(testing::Values(1, 2, 3, 4),
                                          testing::ValuesIn(collective_checks())),
                         [](const auto& test) {
                           return std::string(std::get<1>(test.param).name) + "_" +
                                  std::to_string(std::get<0>(test.param));
                         });

TEST(LocalCommunicator, AThrowingRankEndsTheOthersAndItsCauseIsReported) {
  for (const bool posted : {false, true}) {
    try {
      run_ranks(4, [&](std::unique_ptr<Communicator> world) {
        Stream stream(Device::cpu());
        auto group = world->split(world->rank() % 2);
        if (world->rank() == 2) throw InputFileError("tokens.bin", "truncated");
        double value = 1.0;
        const Tensor tensor(&value, {1}, DType::f64, Device::cpu());
        // Rank 0 waits for rank 2 itself; ranks 1 and 3 only for each other, then for rank 0.
        Pending pending;
        if (posted) pending = group->start_all_reduce(tensor, Reduction::sum, stream);
        if (!posted) group->all_reduce(tensor, Reduction::sum, stream);
        pending.wait(stream);
        world->barrier();
        ADD_FAILURE() << "rank " << world->rank() << " passed a barrier that rank 2 never reached";
      });
      FAIL() << "no rank threw";
    } catch (const InputFileError& error) {
      EXPECT_STREQ(error.what(), "tokens.bin: truncated");
    }
  }
}

TEST(LocalCommunicator, LossOfAPeerIsAnErrorThatNamesOperationGroupAndRank) {
  auto ranks = make_local_communicators(2);
  ranks[1].reset();
  try {
    ranks[0]->barrier();
    FAIL() << "a barrier without the other rank";
  } catch (const CommunicationError& error) {
    EXPECT_STREQ(error.what(), "barrier in group world (rank 0 of 2): rank 1 has left the group");
  }
  EXPECT_THROW(ranks[0]->barrier(), CommunicationError);
}

TEST(LocalCommunicator, TimeoutIsAnError) {
  auto ranks = make_local_communicators(2, 0.05);
  Stream stream(Device::cpu());
  double value = 1.0;
  const Tensor tensor(&value, {1}, DType::f64, Device::cpu());
  Pending pending = ranks[0]->start_all_reduce(tensor, Reduction::sum, stream);
  try {
    pending.wait(stream);
    FAIL() << "an answer from a rank that never called";
  } catch (const CommunicationError& error) {
    EXPECT_STREQ(
        error.what(),
        "all_reduce in group world (rank 0 of 2): no answer from rank 1 within 0.05 seconds");
  }
}

TEST(LocalCommunicator, DestructionNeverWaitsForPeers) {
  Stream stream(Device::cpu());
  double value = 1.0;
  const Tensor tensor(&value, {1}, DType::f64, Device::cpu());
  auto ranks = make_local_communicators(2);
  Pending running = ranks[0]->start_all_reduce(tensor, Reduction::sum, stream);
  Pending queued = ranks[0]->start_all_reduce(tensor, Reduction::sum, stream);
  ranks[0].reset();
  EXPECT_THROW(running.wait(stream), CommunicationError);
  EXPECT_THROW(queued.wait(stream), CommunicationError);
}

TEST(LocalCommunicator, DifferentCountsOnTheTwoSidesAreAnError) {
  EXPECT_THROW(run_ranks(2,
                         [](std::unique_ptr<Communicator> world) {
                           Stream stream(Device::cpu());
                           std::vector<float> values(20, 1.0F);
                           const std::int64_t count = world->rank() == 0 ? 20 : 10;
                           world->all_reduce({values.data(), {count}, DType::f32, Device::cpu()},
                                             Reduction::sum, stream);
                         }),
               CommunicationError);
}

}  // namespace
}  // namespace polymoe
