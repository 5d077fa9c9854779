// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/device_world.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/cuda/cuda_device.h"
#include "runtime/error.h"
#include "tests/support/run_ranks.h"

namespace polymoe {
namespace {

RankPlace gpu(const char* node, const char* identity) {
  return {DeviceType::cuda, node, identity, ""};
}

template <class Error>
std::string error_of(const std::vector<RankPlace>& ranks) {
  try {
    choose_transport(ranks, false, true);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(ChooseTransport, RanksOnTheCpuNeedNothingElse) {
  const std::vector<RankPlace> ranks(3, {DeviceType::cpu, "a", "", ""});
  EXPECT_EQ(choose_transport(ranks, false, true), DeviceTransport::host);
  EXPECT_EQ(choose_transport(ranks, true, false), DeviceTransport::host);
}

TEST(ChooseTransport, AGpuForEachRankMeansNccl) {
  // The same bus address on two nodes is two GPUs.
  const std::vector<RankPlace> ranks{gpu("a", "0"), gpu("a", "1"), gpu("b", "0"), gpu("b", "1")};
  EXPECT_EQ(choose_transport(ranks, false, true), DeviceTransport::nccl);
  EXPECT_EQ(choose_transport(ranks, true, true), DeviceTransport::nccl);
  EXPECT_EQ(choose_transport(ranks, false, false), DeviceTransport::staged);
}

TEST(ChooseTransport, SharedGpusAreStagedWhereThatIsAllowed) {
  const std::vector<RankPlace> ranks{gpu("a", "0"), gpu("a", "1"), gpu("b", "0"), gpu("b", "0")};
  EXPECT_EQ(choose_transport(ranks, true, true), DeviceTransport::staged);
  EXPECT_EQ(error_of<InvalidArgument>(ranks),
            "ranks 2, 3 on node b use 1 GPU; each rank needs one of its own");
}

TEST(ChooseTransport, ARankWithoutADeviceIsNamed) {
  const std::vector<RankPlace> ranks{gpu("a", "0"),
                                     {DeviceType::cuda, "b", "", "cuda:1: invalid device ordinal"}};
  EXPECT_EQ(error_of<DeviceError>(ranks),
            "rank 1 on node b has no device: cuda:1: invalid device ordinal");
}

TEST(ChooseTransport, AllRanksTakeTheSameKind) {
  const RankPlace cpu{DeviceType::cpu, "a", "", ""};
  EXPECT_EQ(error_of<InvalidArgument>({cpu, gpu("a", "0")}),
            "rank 0 computes on the CPU, rank 1 on a GPU; all ranks take the same kind");
  EXPECT_EQ(error_of<InvalidArgument>({gpu("a", "0"), gpu("a", "1"), cpu}),
            "rank 0 computes on a GPU, rank 2 on the CPU; all ranks take the same kind");
}

TEST(DeviceWorld, OnTheCpuIsTheHostsCommunicator) {
  run_ranks(2, [](std::unique_ptr<Communicator> host) {
    const Communicator* const given = host.get();
    const DeviceWorld world = make_device_world(std::move(host), Device::cpu(), {});
    EXPECT_EQ(world.communicator.get(), given);
    EXPECT_EQ(world.transport, "host memory");
    world.communicator->shutdown();
  });
}

TEST(DeviceWorld, RanksThatDisagreeAllThrow) {
  run_ranks(2, [](std::unique_ptr<Communicator> host) {
    const Device device = host->rank() == 0 ? Device::cpu() : Device::cuda(0);
    if (cuda::device_count() == 0) {
      EXPECT_THROW(make_device_world(std::move(host), device, {}), DeviceError);
    } else {
      EXPECT_THROW(make_device_world(std::move(host), device, {}), InvalidArgument);
    }
  });
}

TEST(DeviceWorld, AGpuThatIsNotThereEndsEveryRankWithItsName) {
  run_ranks(2, [](std::unique_ptr<Communicator> host) {
    const int index = host->rank() == 0 ? 100 : 101;
    try {
      make_device_world(std::move(host), Device::cuda(index), {});
      ADD_FAILURE() << "cuda:" << index << " was found";
    } catch (const DeviceError& error) {
      const std::string text = error.what();
      EXPECT_EQ(text.find("rank 0 on node "), 0U) << text;
      EXPECT_NE(text.find(" has no device: cuda:100: "), std::string::npos) << text;
    }
  });
}

}  // namespace
}  // namespace polymoe
