// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/machine_state.h"

#include <gtest/gtest.h>

#include "runtime/cuda/gpu_health.h"

namespace polymoe {
namespace {

TEST(MachineStateTest, IsToldAsTextAndAsJson) {
  const MachineState state{.host = "a",
                           .clock_mhz = 1410.0,
                           .highest_mhz = 1980.0,
                           .celsius = 83.0,
                           .watts = 690.4,
                           .highest_watts = 700.0,
                           .throttled = "power cap"};
  EXPECT_EQ(state.text(), "1410 of 1980 MHz, 83 C, 690 of 700 W, held back by: power cap");
  EXPECT_EQ(state.to_json().dump(),
            R"({"host":"a","mhz":1410.0,"highest_mhz":1980.0,"celsius":83.0,"watts":690.4,)"
            R"("highest_watts":700.0,"throttled":"power cap"})");
  EXPECT_EQ(MachineState{}.text(), "");
}

TEST(MachineStateTest, OfThisProcessor) {
  const MachineState state = machine_state(Device::cpu());
  EXPECT_FALSE(state.host.empty());
  EXPECT_GE(state.load, 0.0);
  EXPECT_EQ(state.watts, 0.0);
}

TEST(GpuHealthTest, ReasonsAreNamed) {
  EXPECT_TRUE(cuda::throttle_reasons(0).empty());
  EXPECT_TRUE(cuda::throttle_reasons(0x1 | 0x2 | 0x100).empty());  // idle, and settings
  EXPECT_EQ(cuda::throttle_reasons(0x4 | 0x40),
            (std::vector<std::string>{"power cap", "heat (hardware)"}));
}

}  // namespace
}  // namespace polymoe
