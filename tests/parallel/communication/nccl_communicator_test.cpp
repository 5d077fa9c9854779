// SPDX-License-Identifier: Apache-2.0
// Ranks on GPUs: NCCL where each has one of its own, staging where they share.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "parallel/communication/device_world.h"
#include "runtime/buffer.h"
#include "runtime/copy.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/error.h"
#include "tests/parallel/communication/collective_checks.h"
#include "tests/support/mpi_world.h"

namespace polymoe {
namespace {

// Forming an NCCL communicator counts too, the first one with the search for the topology.
constexpr double impatience_seconds = 10.0;

bool gpus_are_shared() { return cuda::device_count() < mpi_environment().ranks_on_node(); }

Device own_device() {
  return Device::cuda(mpi_environment().rank_on_node() % cuda::device_count());
}

DeviceWorld make_world(double timeout_seconds) {
  return make_device_world(
      mpi_environment().make_world(timeout_seconds), own_device(),
      {.share_devices = gpus_are_shared(), .timeout_seconds = timeout_seconds});
}

class OnGpus : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda::device_count() == 0) GTEST_SKIP() << cuda::unavailable_reason();
  }
};

/// Two ranks or more, a GPU for each.
class OnGpusOfTheirOwn : public OnGpus {
 protected:
  void SetUp() override {
    OnGpus::SetUp();
    if (IsSkipped()) return;
    if (mpi_environment().size() == 1) GTEST_SKIP() << "one rank has no peers";
    if (gpus_are_shared()) {
      GTEST_SKIP() << mpi_environment().ranks_on_node() << " ranks share " << cuda::device_count()
                   << " GPUs";
    }
    stream_.emplace(own_device());
    values_ = OwnedTensor({1 << 20}, DType::f32, own_device());
  }
  Stream& stream() { return *stream_; }
  const Tensor& values() const { return *values_; }

 private:
  std::optional<Stream> stream_;
  OwnedTensor values_;
};

template <class Call>
std::string loss_of(Call call) {
  try {
    call();
  } catch (const CommunicationError& error) {
    return error.what();
  }
  return "nothing thrown";
}

std::string place(const char* operation) {
  return std::string(operation) + " in group world (rank " +
         std::to_string(mpi_environment().rank()) + " of " +
         std::to_string(mpi_environment().size()) + "): ";
}

class GpuCollectives : public testing::TestWithParam<CollectiveCheck> {};

TEST_P(GpuCollectives, Hold) {
  if (cuda::device_count() == 0) GTEST_SKIP() << cuda::unavailable_reason();
  const DeviceWorld world = make_world(60.0);
  const bool nccl = world.transport.substr(0, 4) == "NCCL";
  const bool alone = world.communicator->size() == 1;
  GetParam().run({.world = *world.communicator,
                  .device = own_device(),
                  .rank_order = !nccl || alone,
                  .delivers_unwaited = nccl || alone});
  world.communicator->check();
  world.communicator->shutdown();
}

// Host tensors take the host's way through the same communicator, with the host's promises.
TEST_P(GpuCollectives, HoldForHostTensors) {
  if (cuda::device_count() == 0) GTEST_SKIP() << cuda::unavailable_reason();
  const DeviceWorld world = make_world(60.0);
  GetParam().run({*world.communicator});
  world.communicator->shutdown();
}

INSTANTIATE_TEST_SUITE_P(, GpuCollectives, testing::ValuesIn(collective_checks()),
                         [](const auto& test) { return test.param.name; });

TEST(GpuWorld, WithoutAGpuEveryRankSaysWhichRankHasNone) {
  if (cuda::device_count() > 0) {
    EXPECT_NO_THROW(make_world(60.0).communicator->shutdown());
    return;
  }
  try {
    make_device_world(mpi_environment().make_world(60.0), Device::cuda(0), {});
    ADD_FAILURE() << "a GPU was found";
  } catch (const DeviceError& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.find("rank 0 on node "), 0U) << text;
    EXPECT_NE(text.find(" has no device: cuda:0: "), std::string::npos) << text;
  }
}

TEST_F(OnGpus, SharingHasToBeAskedFor) {
  const int ranks = mpi_environment().size();
  const auto on_first = [&](bool share) {
    return make_device_world(mpi_environment().make_world(60.0), Device::cuda(0),
                             {.share_devices = share, .timeout_seconds = 60.0});
  };
  if (ranks == 1) {
    EXPECT_NO_THROW(on_first(false).communicator->shutdown());
    return;
  }
  EXPECT_THROW(on_first(false), InvalidArgument);
  const DeviceWorld shared = on_first(true);
  EXPECT_EQ(shared.transport, "host memory with pinned staging");
  shared.communicator->shutdown();
}

TEST_F(OnGpusOfTheirOwn, SumsHaveTheSameBitsEachTime) {
  const DeviceWorld world = make_world(60.0);
  EXPECT_EQ(world.transport.substr(0, 7), "NCCL 2.");
  std::vector<float> host(static_cast<std::size_t>(values().elements()));
  std::vector<float> first;
  for (int repetition = 0; repetition < 3; ++repetition) {
    for (std::size_t i = 0; i < host.size(); ++i) {
      host[i] =
          1.0F / static_cast<float>(1 + i % 977 + static_cast<std::size_t>(own_device().index));
    }
    const Tensor on_host(host.data(), values().shape(), DType::f32, Device::cpu());
    copy(on_host, values(), stream());
    world.communicator->all_reduce(values(), Reduction::sum, stream());
    copy(values(), on_host, stream());
    stream().synchronize();
    if (repetition == 0) first = host;
    EXPECT_EQ(std::memcmp(host.data(), first.data(), host.size() * sizeof(float)), 0);
  }
  world.communicator->shutdown();
}

TEST_F(OnGpusOfTheirOwn, AStreamOfAnotherDeviceIsRefused) {
  const DeviceWorld world = make_world(60.0);
  Stream host(Device::cpu());
  EXPECT_THROW(world.communicator->start_all_reduce(values(), Reduction::sum, host),
               InvalidArgument);
  Pending pending = world.communicator->start_all_reduce(values(), Reduction::sum, stream());
  EXPECT_NO_THROW(pending.wait(host));  // blocks until the result is there
  world.communicator->shutdown();
}

/// `warm`: connections exist, so that the operation is enqueued and waits on the device.
void lose_a_peer(Communicator& world, bool warm, const Tensor& values, Stream& stream) {
  if (warm) {
    world.all_reduce(values, Reduction::sum, stream);
    stream.synchronize();
  }
  auto everyone = mpi_environment().make_world(120.0);
  if (world.rank() == 0) {
    const std::string expected = place("all_reduce") + "no answer from a peer within 10 seconds";
    EXPECT_EQ(loss_of([&] {
                world.start_all_reduce(values, Reduction::sum, stream).wait(stream);
                stream.synchronize();  // returns, because the operation is aborted
                world.check();
              }),
              expected);
    // Everything after is the same loss.
    EXPECT_EQ(loss_of([&] { world.all_gather(values, stream); }), expected);
    EXPECT_EQ(loss_of([&] { world.barrier(); }), expected);
    EXPECT_EQ(loss_of([&] { world.shutdown(); }), expected);
    EXPECT_NO_THROW(stream.synchronize());
  }
  everyone->barrier();
  everyone->shutdown();
}

TEST_F(OnGpusOfTheirOwn, APeerThatNeverCallsIsALossAfterTheTimeout) {
  for (const bool warm : {true, false}) {
    const DeviceWorld world = make_world(impatience_seconds);
    lose_a_peer(*world.communicator, warm, values(), stream());
  }
}

TEST_F(OnGpusOfTheirOwn, ALossInAPartEndsTheWhole) {
  const DeviceWorld world = make_world(impatience_seconds);
  auto everyone = mpi_environment().make_world(120.0);
  const auto part = world.communicator->split(7);
  part->all_reduce(values(), Reduction::sum, stream());
  stream().synchronize();
  if (part->rank() == 0) {
    part->start_all_reduce(values(), Reduction::sum, stream()).wait(stream());
    stream().synchronize();
    const std::string loss = loss_of([&] { part->check(); });
    EXPECT_EQ(loss.find("all_reduce in group world/7 (rank 0 of "), 0U) << loss;
    EXPECT_EQ(loss_of([&] { world.communicator->check(); }), loss);
    EXPECT_EQ(loss_of([&] { world.communicator->barrier(); }), loss);
  }
  everyone->barrier();
  everyone->shutdown();
}

TEST_F(OnGpusOfTheirOwn, InterruptAndDestructionNeverWaitForPeers) {
  auto everyone = mpi_environment().make_world(120.0);
  for (const bool interrupt : {true, false}) {
    DeviceWorld world = make_world(60.0);
    world.communicator->all_reduce(values(), Reduction::sum, stream());
    stream().synchronize();
    if (everyone->rank() == 0) {
      const auto start = std::chrono::steady_clock::now();
      Pending pending = world.communicator->start_all_reduce(values(), Reduction::sum, stream());
      if (interrupt) {
        std::thread([&] { world.communicator->interrupt(); }).join();
        EXPECT_EQ(loss_of([&] { world.communicator->check(); }),
                  place("all_reduce") + "interrupted");
      } else {
        world.communicator.reset();
      }
      EXPECT_NE(loss_of([&] { pending.wait(stream()); }), "nothing thrown");
      EXPECT_NO_THROW(stream().synchronize());
      EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
    }
    everyone->barrier();
  }
  everyone->shutdown();
}

}  // namespace
}  // namespace polymoe
