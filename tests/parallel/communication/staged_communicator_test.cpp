// SPDX-License-Identifier: Apache-2.0
// The staging with host tensors in the device's place: all of it but the copies' direction.
#include "parallel/communication/staged_communicator.h"

#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "runtime/error.h"
#include "tests/parallel/communication/collective_checks.h"
#include "tests/support/run_ranks.h"

namespace polymoe {
namespace {

std::unique_ptr<Communicator> staged(std::unique_ptr<Communicator> host) {
  return std::make_unique<StagedCommunicator>(std::move(host), Device::cpu(), "world");
}

class StagedCollectives : public testing::TestWithParam<std::tuple<int, CollectiveCheck>> {};

TEST_P(StagedCollectives, Hold) {
  const auto& [ranks, check] = GetParam();
  run_ranks(ranks, [&](std::unique_ptr<Communicator> host) {
    const auto world = staged(std::move(host));
    check.run({.world = *world, .delivers_unwaited = world->size() == 1});
    world->shutdown();
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, StagedCollectives,
                         testing::Combine(testing::Values(1, 2, 3, 4),
                                          testing::ValuesIn(collective_checks())),
                         [](const auto& test) {
                           return std::string(std::get<1>(test.param).name) + "_" +
                                  std::to_string(std::get<0>(test.param));
                         });

TEST(StagedCommunicator, TensorsOfAnotherDeviceAreRefused) {
  auto world = staged(std::move(make_local_communicators(1)[0]));
  Stream stream(Device::cpu());
  float value = 1.0F;
  const Tensor elsewhere(&value, {1}, DType::f32, Device::cuda(1));
  try {
    world->all_reduce(elsewhere, Reduction::sum, stream);
    FAIL() << "a tensor on cuda:1 was taken";
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(std::string(error.what()).find("all_reduce in group world (rank 0 of 1): "), 0U);
  }
}

TEST(StagedCommunicator, LossOfAPeerNamesOperationGroupAndRank) {
  auto hosts = make_local_communicators(2, 0.05);
  const auto world = staged(std::move(hosts[0]));
  Stream stream(Device::cpu());
  double value = 1.0;
  const Tensor tensor(&value, {1}, DType::f64, Device::cpu());
  Pending pending = world->start_all_reduce(tensor, Reduction::sum, stream);
  try {
    pending.wait(stream);
    FAIL() << "an answer from a rank that never called";
  } catch (const CommunicationError& error) {
    EXPECT_STREQ(
        error.what(),
        "all_reduce in group world (rank 0 of 2): no answer from rank 1 within 0.05 seconds");
  }
  EXPECT_EQ(value, 1.0);  // a failed operation leaves the tensor as it was
  EXPECT_THROW(world->barrier(), CommunicationError);
}

TEST(StagedCommunicator, DestructionNeverWaitsForPeersAndOutstandingWaitsThrow) {
  auto hosts = make_local_communicators(2);
  auto world = staged(std::move(hosts[0]));
  Stream stream(Device::cpu());
  double value = 1.0;
  const Tensor tensor(&value, {1}, DType::f64, Device::cpu());
  Pending running = world->start_all_reduce(tensor, Reduction::sum, stream);
  Pending queued = world->start_all_reduce(tensor, Reduction::sum, stream);
  world.reset();
  EXPECT_THROW(running.wait(stream), CommunicationError);
  EXPECT_THROW(queued.wait(stream), CommunicationError);
}

TEST(StagedCommunicator, InterruptEndsAWait) {
  auto hosts = make_local_communicators(2);
  const auto world = staged(std::move(hosts[0]));
  Stream stream(Device::cpu());
  double value = 1.0;
  const Tensor tensor(&value, {1}, DType::f64, Device::cpu());
  Pending pending = world->start_all_reduce(tensor, Reduction::sum, stream);
  world->interrupt();
  EXPECT_THROW(pending.wait(stream), CommunicationError);
}

}  // namespace
}  // namespace polymoe
