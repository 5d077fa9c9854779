// SPDX-License-Identifier: Apache-2.0
#include "kernels/convert/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "runtime/copy.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::bitwise_equal;
using test::random_tensor;

constexpr std::uint32_t bf16_patterns = 0x10000;

bool is_nan_pattern(std::uint32_t bf16) { return (bf16 & 0x7fff) > 0x7f80; }

double value_of_f32(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// f32 or bf16 on the CPU, of the patterns given.
template <class Bits>
OwnedTensor tensor_of_bits(DType dtype, const std::vector<Bits>& bits) {
  OwnedTensor tensor({static_cast<std::int64_t>(bits.size())}, dtype, Device::cpu());
  std::memcpy(tensor->raw(), bits.data(), tensor->bytes());
  return tensor;
}

// The instances' dtypes do not matter: every test names its own.
class Convert : public test::OnDevice {
 protected:
  // x converted to `dtype` on the device, its patterns.
  template <class Bits>
  std::vector<Bits> converted_bits(const Tensor& x, DType dtype) {
    const OwnedTensor on_x = moved(x), y = poisoned(x.shape(), dtype);
    convert(*on_x, *y, stream());
    return bits_of<Bits>(*y);
  }
  template <class Bits>
  std::vector<Bits> bits_of(const Tensor& tensor) {
    const OwnedTensor host(tensor.shape(), tensor.dtype(), Device::cpu());
    copy(tensor, *host, stream());
    stream().synchronize();
    std::vector<Bits> bits(static_cast<std::size_t>(tensor.elements()));
    std::memcpy(bits.data(), host->raw(), host->bytes());
    return bits;
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, Convert,
                         ::testing::Values(test::Placement{DeviceType::cpu, DType::f32},
                                           test::Placement{DeviceType::cuda, DType::f32}),
                         test::name_of_placement);

// All of them: zeros, subnormal and normal values, infinities, NaN.
TEST_P(Convert, EveryBf16ValueWidensExactlyAndComesBack) {
  std::vector<std::uint16_t> patterns(bf16_patterns);
  for (std::uint32_t p = 0; p < bf16_patterns; ++p) patterns[p] = static_cast<std::uint16_t>(p);
  const OwnedTensor narrow = tensor_of_bits(DType::bf16, patterns);
  const auto wide = converted_bits<std::uint32_t>(*narrow, DType::f32);
  const auto back = converted_bits<std::uint16_t>(*tensor_of_bits(DType::f32, wide), DType::bf16);
  for (std::uint32_t p = 0; p < bf16_patterns; ++p) {
    if (is_nan_pattern(p)) {
      ASSERT_TRUE(std::isnan(value_of_f32(wide[p])) && is_nan_pattern(back[p])) << p;
    } else {
      ASSERT_EQ(wide[p], p << 16);
      ASSERT_EQ(back[p], p);
    }
  }
}

// Between every two neighbouring bf16 values: next to both, the middle, and next to the middle.
TEST_P(Convert, RoundsToTheNearestAndTiesToEven) {
  const std::vector<std::uint32_t> between = {0x0001, 0x7fff, 0x8000, 0x8001, 0xffff};
  std::vector<std::uint32_t> bits;
  std::vector<std::uint32_t> expected;
  for (std::uint32_t p = 0; p < bf16_patterns; ++p) {
    if ((p & 0x7fff) >= 0x7f80) continue;  // nothing finite above
    const double below = std::abs(value_of_f32(p << 16));
    // Infinity stands where the next value of the largest exponent would.
    const double above =
        ((p + 1) & 0x7fff) == 0x7f80 ? std::ldexp(1.0, 128) : std::abs(value_of_f32((p + 1) << 16));
    for (const std::uint32_t low : between) {
      const std::uint32_t word = (p << 16) | low;
      const double value = std::abs(value_of_f32(word));
      const double to_below = value - below, to_above = above - value;
      const bool up = to_above < to_below || (to_above == to_below && p % 2 == 1);
      bits.push_back(word);
      expected.push_back(up ? p + 1 : p);
    }
  }
  const auto rounded =
      converted_bits<std::uint16_t>(*tensor_of_bits(DType::f32, bits), DType::bf16);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    ASSERT_EQ(rounded[i], expected[i]) << std::hexfloat << value_of_f32(bits[i]);
  }
}

// Also those whose payload lies in the half that is dropped.
TEST_P(Convert, EveryNanStaysOne) {
  std::vector<std::uint32_t> bits;
  for (const std::uint32_t sign : {0u, 0x80000000u}) {
    for (const std::uint32_t payload : {1u, 0x7fffu, 0x8000u, 0xffffu, 0x10000u, 0x7fffffu}) {
      bits.push_back(sign | 0x7f800000u | payload);
    }
  }
  for (const std::uint16_t pattern :
       converted_bits<std::uint16_t>(*tensor_of_bits(DType::f32, bits), DType::bf16)) {
    EXPECT_TRUE(is_nan_pattern(pattern)) << pattern;
  }
}

// Nothing before or after the range changes, wherever it begins.
TEST_P(Convert, AnyCountFromAnyStart) {
  constexpr std::int64_t margin = 5;
  for (const std::int64_t count : {0, 1, 3, 4, 5, 7, 64, 1000, 16385, 100003}) {
    for (const std::int64_t start : {0, 1, 2, 4}) {
      for (const bool narrows : {true, false}) {
        SCOPED_TRACE(std::to_string(count) + " from " + std::to_string(start));
        const DType from = narrows ? DType::f32 : DType::bf16,
                    to = narrows ? DType::bf16 : DType::f32;
        const std::int64_t size = start + count + margin;
        const OwnedTensor x = random_tensor({size}, from, "x");
        const OwnedTensor before = random_tensor({size}, to, "y");
        const OwnedTensor on_x = moved(*x), y = moved(*before);
        convert(on_x->rows(start, start + count), y->rows(start, start + count), stream());
        const OwnedTensor result = fetched(*y), whole = test::converted(*x, to);
        EXPECT_TRUE(bitwise_equal(result->rows(0, start),
                                  test::converted(*before, DType::f64)->rows(0, start)));
        EXPECT_TRUE(bitwise_equal(result->rows(start, start + count),
                                  test::converted(*whole, DType::f64)->rows(start, start + count)));
        EXPECT_TRUE(bitwise_equal(result->rows(start + count, size),
                                  test::converted(*before, DType::f64)->rows(start + count, size)));
      }
    }
  }
}

TEST_P(Convert, EqualDtypesCopyTheBits) {
  const std::vector<std::uint32_t> words = {0x7f800001u, 0xffc12345u, 0x00000001u, 0x80000000u, 7u};
  EXPECT_EQ(converted_bits<std::uint32_t>(*tensor_of_bits(DType::f32, words), DType::f32), words);
  const std::vector<std::uint16_t> halves = {0x7f81, 0xffff, 0x0001, 0x8000, 7};
  EXPECT_EQ(converted_bits<std::uint16_t>(*tensor_of_bits(DType::bf16, halves), DType::bf16),
            halves);
}

TEST_P(Convert, OnlyElementCountsMustAgree) {
  const OwnedTensor x = moved(*random_tensor({6, 4}, DType::f32, "x"));
  const OwnedTensor y = poisoned({2, 3, 4}, DType::bf16);
  convert(*x, *y, stream());
  EXPECT_TRUE(
      bitwise_equal(fetched(*y)->view({6, 4}),
                    *test::converted(*random_tensor({6, 4}, DType::bf16, "x"), DType::f64)));
}

TEST_P(Convert, NamesWhatDoesNotFit) {
  const OwnedTensor x({6}, DType::f32, device()), shorter({5}, DType::bf16, device());
  const OwnedTensor ids({6}, DType::i32, device()), narrow({6}, DType::bf16, device());
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { convert(*x, *shorter, stream()); }),
            "convert: y has shape [5], expected [6]");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { convert(*x, Tensor{}, stream()); }),
            "convert: y is missing");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { convert(Tensor{}, *x, stream()); }),
            "convert: x is missing");
  EXPECT_THROW(convert(*x, *ids, stream()), InvalidArgument);
  EXPECT_THROW(convert(*ids, *ids, stream()), InvalidArgument);
  const OwnedTensor wide({6}, DType::f64, device());
  EXPECT_THROW(convert(*wide, *narrow, stream()), InvalidArgument);
  EXPECT_THROW(convert(*narrow, *wide, stream()), InvalidArgument);
  if (device().type == DeviceType::cuda) {
    EXPECT_THROW(convert(*x, *wide, stream()), InvalidArgument);
  }
}

TEST(ConvertDouble, RoundsToTheNearestAndWidensExactly) {
  Stream stream(Device::cpu());
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const std::vector<double> values = {1.0 + 0x1p-24, 1.0 + 0x3p-24, -1.0 - 0x1.000001p-24,
                                      1e300,         -1e300,        0x1p-149,
                                      0x1p-150,      0x1.8p-150,    -0.0};
  const std::vector<float> expected = {1.0f,     1.0f + 0x1p-22f, -1.0f - 0x1p-23f,
                                       infinity, -infinity,       0x1p-149f,
                                       0.0f,     0x1p-149f,       -0.0f};
  const OwnedTensor wide = test::tensor_of({9}, DType::f64, values);
  const OwnedTensor narrow({9}, DType::f32, Device::cpu()), back({9}, DType::f64, Device::cpu());
  convert(*wide, *narrow, stream);
  convert(*narrow, *back, stream);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(narrow->data<float>()[i], expected[i]) << i;
    EXPECT_EQ(std::signbit(narrow->data<float>()[i]), std::signbit(expected[i])) << i;
    EXPECT_EQ(back->data<double>()[i], static_cast<double>(expected[i])) << i;
  }
  wide->data<double>()[0] = NAN;
  convert(*wide, *narrow, stream);
  EXPECT_TRUE(std::isnan(narrow->data<float>()[0]));
}

}  // namespace
}  // namespace polymoe
