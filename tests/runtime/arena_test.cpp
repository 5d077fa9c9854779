// SPDX-License-Identifier: Apache-2.0
#include "runtime/arena.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "runtime/error.h"

namespace polymoe {
namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;

TEST(Arena, IsAStackWithAlignedAllocations) {
  Arena arena({.device = Device::cpu(), .capacity = 64 * mebibyte, .poison = false});
  const Tensor first = arena.allocate({3}, DType::f32);
  const std::size_t mark = arena.mark();
  const Tensor second = arena.allocate({5, 7}, DType::f64);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first.raw()) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(second.raw()) % 64, 0u);
  arena.release(mark);
  EXPECT_EQ(arena.allocate({1}, DType::f32).raw(), second.raw());
  EXPECT_EQ(arena.high_water(), 64u + 320u);  // 12 and 280 bytes, each rounded up to 64
}

TEST(Arena, ScopeFreesWhatWasAllocatedInside) {
  Arena arena({.device = Device::cpu(), .capacity = mebibyte, .poison = false});
  {
    Arena::Scope scope(arena);
    arena.allocate({1000}, DType::f32);
  }
  EXPECT_EQ(arena.mark(), 0u);
  EXPECT_EQ(arena.high_water(), 4032u);
}

TEST(Arena, PoisonShowsReadsBeforeTheFirstWrite) {
  Arena arena({.device = Device::cpu(), .capacity = mebibyte, .poison = true});
  EXPECT_TRUE(std::isnan(arena.allocate({4}, DType::f32).data<float>()[3]));
  EXPECT_TRUE(std::isnan(arena.allocate({4}, DType::f64).data<double>()[0]));
}

TEST(Arena, MetaCountsLikeTheRealOne) {
  Arena real({.device = Device::cpu(), .capacity = mebibyte, .poison = false});
  Arena meta({.device = Device::meta()});
  for (Arena* arena : {&real, &meta}) {
    Arena::Scope scope(*arena);
    arena->allocate({33}, DType::f32);
    arena->allocate({0}, DType::f32);
    arena->allocate({65, 3}, DType::u16);
  }
  EXPECT_EQ(real.high_water(), meta.high_water());
  EXPECT_EQ(meta.allocate({1 << 20, 1 << 20}, DType::f32).raw(), nullptr);
}

TEST(Arena, FullIsAnErrorThatNamesTheKeyToChange) {
  Arena arena({.device = Device::cpu(), .capacity = mebibyte, .poison = false});
  try {
    arena.allocate({100 * 1024 * 1024}, DType::f32);
    FAIL() << "allocated beyond the capacity";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("train.micro_batch"), std::string::npos);
  }
}

}  // namespace
}  // namespace polymoe
