// SPDX-License-Identifier: Apache-2.0
// f32 values in two parts, on every device, against the formula.
#include "kernels/split_float/split_float.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/copy.h"
#include "runtime/float16.h"
#include "support/devices.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

/// Around every rounding: each upper half with the lower ones at which something changes.
std::vector<float> telling_values() {
  std::vector<float> values;
  for (std::uint32_t upper = 0; upper < 0x10000U; ++upper) {
    for (const std::uint32_t lower :
         {0U, 1U, upper * 40503U % 0x8000U, 0x7fffU, 0x8000U, 0x8001U, 0xfffeU, 0xffffU})
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
  }
  return values;
}

TEST(SplitFloat, JoinsToTheBit) {
  for (const float value : telling_values()) {
    const SplitFloat parts = split_float(value);
    const float joined = join_float(parts), high = float_of_bf16(parts.high);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(high) && std::isnan(joined)) << std::hex << bits_of(value);
      EXPECT_EQ(bits_of(joined) & 0xffbfffffU, bits_of(value) & 0xffbfffffU);
    } else {
      ASSERT_EQ(bits_of(joined), bits_of(value));
    }
  }
}

TEST(SplitFloat, TheUpperPartIsTheNearestAndTheLargerOfTwo) {
  for (const float value : telling_values()) {
    if (!std::isfinite(value)) continue;
    const std::uint16_t high = split_float(value).high;
    const std::uint32_t bits = bits_of(value), lower = bits & 0xffffU;
    const auto toward_zero = static_cast<std::uint16_t>(bits >> 16);
    ASSERT_EQ(high, lower < 0x8000U ? toward_zero : toward_zero + 1) << std::hex << bits;
    // Only ties are rounded otherwise elsewhere.
    const bool tie = lower == 0x8000U;
    ASSERT_TRUE(tie || high == bf16_of_float(value)) << std::hex << bits;
  }
}

class SplitFloatDevices : public test::OnDevice {};
INSTANTIATE_TEST_SUITE_P(All, SplitFloatDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(SplitFloatDevices, IsTheFormulaToTheBit) {
  std::vector<float> values = telling_values();
  const auto all = static_cast<std::int64_t>(values.size());
  const OwnedTensor x({all}, DType::f32, device());
  copy(Tensor(values.data(), {all}, DType::f32, Device::cpu()), *x, stream());
  for (const std::int64_t count : {all, std::int64_t{7}, std::int64_t{0}}) {
    for (const std::int64_t begin : {0, 1}) {
      if (begin >= count) continue;
      SCOPED_TRACE(std::to_string(count) + " from " + std::to_string(begin));
      const OwnedTensor high({count}, DType::bf16, device()), low({count}, DType::u16, device()),
          alone({count}, DType::bf16, device());
      split_floats(x->rows(begin, count), high->rows(begin, count), low->rows(begin, count),
                   stream());
      split_floats(x->rows(begin, count), alone->rows(begin, count), {}, stream());
      std::vector<std::uint16_t> upper(static_cast<std::size_t>(count)), lower(upper), other(upper);
      copy(*high, Tensor(upper.data(), {count}, DType::bf16, Device::cpu()), stream());
      copy(*low, Tensor(lower.data(), {count}, DType::u16, Device::cpu()), stream());
      copy(*alone, Tensor(other.data(), {count}, DType::bf16, Device::cpu()), stream());
      stream().synchronize();
      std::size_t wrong = 0;
      for (auto i = static_cast<std::size_t>(begin); i < upper.size(); ++i) {
        const SplitFloat expected = split_float(values[i]);
        wrong +=
            upper[i] == expected.high && lower[i] == expected.low && other[i] == upper[i] ? 0 : 1;
      }
      EXPECT_EQ(wrong, 0U);
    }
  }
}

TEST_P(SplitFloatDevices, NamesWhatDoesNotFit) {
  const OwnedTensor x({8}, DType::f32, device()), high({8}, DType::bf16, device()),
      low({7}, DType::u16, device());
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { split_floats(*x, *x, {}, stream()); }),
            "split_floats: high is f32, expected bf16");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { split_floats(*high, *high, {}, stream()); }),
            "split_floats: x is bf16, expected f32");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { split_floats(*x, *high, *low, stream()); }),
            "split_floats: low has shape [7], expected [8]");
}

}  // namespace
}  // namespace polymoe
