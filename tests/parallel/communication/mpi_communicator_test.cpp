// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>

#include "runtime/error.h"
#include "tests/parallel/communication/collective_checks.h"
#include "tests/support/mpi_world.h"

namespace polymoe {
namespace {

class MpiCollectives : public testing::TestWithParam<CollectiveCheck> {};

TEST_P(MpiCollectives, Hold) {
  auto world = mpi_environment().make_world(60.0);
  GetParam().run({*world});
  world->shutdown();
}

INSTANTIATE_TEST_SUITE_P(, MpiCollectives, testing::ValuesIn(collective_checks()),
                         [](const auto& test) { return test.param.name; });

TEST(MpiEnvironment, KnowsItsNode) {
  const MpiEnvironment& mpi = mpi_environment();
  EXPECT_EQ(mpi.ranks_on_node(), mpi.size());  // the tests run on one node
  EXPECT_EQ(mpi.rank_on_node(), mpi.rank());
  EXPECT_EQ(mpi.library_version().substr(0, 4), "Open");
  EXPECT_EQ(mpi.library_version().find('\n'), std::string::npos);
}

TEST(MpiCommunicator, APeerThatDoesNotAnswerIsAnErrorAfterTheTimeout) {
  if (mpi_environment().size() == 1) {
    auto alone = mpi_environment().make_world(0.05);
    EXPECT_NO_THROW(alone->barrier());  // nobody to wait for
    alone->shutdown();
    return;
  }
  auto world = mpi_environment().make_world(60.0);
  auto impatient = mpi_environment().make_world(0.2);
  if (world->rank() == 0) {
    Stream stream(Device::cpu());
    double value = 1.0;
    const Tensor tensor(&value, {1}, DType::f64, Device::cpu());
    Pending pending = impatient->start_all_reduce(tensor, Reduction::sum, stream);
    try {
      pending.wait(stream);
      ADD_FAILURE() << "an answer from ranks that never called";
    } catch (const CommunicationError& error) {
      const std::string start = "all_reduce in group world (rank 0 of " +
                                std::to_string(world->size()) + "): no answer from rank 1";
      EXPECT_EQ(std::string(error.what()), start + " within 0.2 seconds");
    }
    EXPECT_THROW(impatient->barrier(), CommunicationError);
  }
  world->barrier();
  world->shutdown();
}

TEST(MpiCommunicator, DestructionNeverWaitsForPeers) {
  auto world = mpi_environment().make_world(60.0);
  auto group = mpi_environment().make_world(60.0);
  if (world->rank() == 0 && world->size() > 1) {
    Stream stream(Device::cpu());
    double value = 1.0;
    const Tensor tensor(&value, {1}, DType::f64, Device::cpu());
    Pending running = group->start_all_reduce(tensor, Reduction::sum, stream);
    Pending queued = group->start_all_reduce(tensor, Reduction::sum, stream);
    group.reset();
    EXPECT_THROW(running.wait(stream), CommunicationError);
    EXPECT_THROW(queued.wait(stream), CommunicationError);
  }
  world->barrier();
  EXPECT_GE(world->size(), 1);
  world->shutdown();
}

}  // namespace
}  // namespace polymoe
