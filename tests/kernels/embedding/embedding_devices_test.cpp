// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "kernels/embedding/embedding.h"
#include "runtime/random.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::bitwise_equal;
using test::converted;
using test::random_tensor;

struct Size {
  std::int64_t rows, vocab, width;
};

// Id i about as often as 1 / (i + 1), as in text.
std::int32_t zipf(double uniform, std::int64_t vocab) {
  return static_cast<std::int32_t>(std::pow(static_cast<double>(vocab), uniform)) - 1;
}
std::int32_t even(double uniform, std::int64_t vocab) {
  return static_cast<std::int32_t>(uniform * static_cast<double>(vocab));
}
std::int32_t last(double, std::int64_t vocab) { return static_cast<std::int32_t>(vocab - 1); }

using Draw = std::int32_t (*)(double uniform, std::int64_t vocab);

OwnedTensor draw_tokens(const Size& size, Draw draw) {
  const RandomStream random(11, "tokens");
  OwnedTensor tokens({size.rows}, DType::i32, Device::cpu());
  for (std::int64_t i = 0; i < size.rows; ++i) {
    tokens->data<std::int32_t>()[i] =
        draw(random.uniform(static_cast<std::uint64_t>(i)), size.vocab);
  }
  return tokens;
}

class EmbeddingDevices : public test::OnDevice {
 protected:
  OwnedTensor gradient(const Tensor& tokens, const Tensor& d_y, const Tensor& d_table) {
    const OwnedTensor on_tokens = moved(tokens), on_d_y = moved(d_y), on_d_table = moved(d_table);
    embedding_backward(*on_tokens, *on_d_y, *on_d_table, arena(), stream());
    return fetched(*on_d_table);
  }
  void compare(const Size& size, Draw draw) {
    SCOPED_TRACE(std::to_string(size.rows) + " rows, vocabulary " + std::to_string(size.vocab) +
                 ", width " + std::to_string(size.width));
    const OwnedTensor tokens = draw_tokens(size, draw);
    const OwnedTensor d_y = random_tensor({size.rows, size.width}, dtype(), "d_y");
    const OwnedTensor d_table = random_tensor({size.vocab, size.width}, wide_dtype(), "d_table");
    const OwnedTensor expected = converted(*d_table, DType::f64);
    Stream cpu(Device::cpu());
    Arena none({.device = Device::cpu(), .capacity = 1});
    embedding_backward(*tokens, *converted(*d_y, DType::f64), *expected, none, cpu);
    const OwnedTensor first = gradient(*tokens, *d_y, *d_table);
    EXPECT_LE(test::relative_error(*first, *expected), 1e-5);
    EXPECT_TRUE(bitwise_equal(*gradient(*tokens, *d_y, *d_table), *first));
  }
};
INSTANTIATE_TEST_SUITE_P(All, EmbeddingDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

// One to three passes of the sort, one tile and several, windows that are full and not.
TEST_P(EmbeddingDevices, AgreesWithDouble) {
  for (const Draw draw : {zipf, even, last}) {
    compare({1, 1, 1}, draw);
    compare({63, 5, 8}, draw);
    compare({64, 255, 33}, draw);
    compare({65, 256, 64}, draw);
    compare({2049, 300, 2052}, draw);
    compare({9000, 50304, 24}, draw);
    compare({5000, 65536, 5}, draw);
  }
}

// A token's windows of sums are more than a block looks for at once.
TEST_P(EmbeddingDevices, AllRowsTheSameToken) { compare({64 * 600 + 7, 9, 8}, last); }

TEST_P(EmbeddingDevices, PassesOverIdsOutOfRangeOnAGpu) {
  if (device().type == DeviceType::cpu) GTEST_SKIP() << "the CPU refuses them: embedding_test.cpp";
  const Size size{700, 50, 12};
  const OwnedTensor tokens = draw_tokens(size, even);
  const OwnedTensor d_y = random_tensor({size.rows, size.width}, dtype(), "d_y");
  const OwnedTensor d_table = random_tensor({size.vocab, size.width}, wide_dtype(), "d_table");
  // The reference adds zeros instead.
  const OwnedTensor known = draw_tokens(size, even), zeroed = converted(*d_y, DType::f64);
  constexpr std::int32_t outside[] = {-1, 50, 1 << 30, INT32_MIN};
  for (std::int64_t row = 0; row < size.rows; row += 5) {
    tokens->data<std::int32_t>()[row] = outside[row / 5 % 4];
    for (std::int64_t i = 0; i < size.width; ++i) {
      zeroed->data<double>()[row * size.width + i] = 0.0;
    }
  }
  const OwnedTensor expected = converted(*d_table, DType::f64);
  Stream cpu(Device::cpu());
  Arena none({.device = Device::cpu(), .capacity = 1});
  embedding_backward(*known, *zeroed, *expected, none, cpu);
  EXPECT_LE(test::relative_error(*gradient(*tokens, *d_y, *d_table), *expected), 1e-5);
  std::fill_n(tokens->data<std::int32_t>(), size.rows, 50);
  EXPECT_TRUE(bitwise_equal(*gradient(*tokens, *d_y, *d_table), *converted(*d_table, DType::f64)));
}

TEST_P(EmbeddingDevices, NoRowsAndNoColumns) {
  for (const Size& size : {Size{0, 5, 8}, Size{7, 5, 0}}) {
    const OwnedTensor d_table = random_tensor({size.vocab, size.width}, wide_dtype(), "d_table");
    const OwnedTensor d_y({size.rows, size.width}, dtype(), Device::cpu());
    EXPECT_TRUE(bitwise_equal(*gradient(*draw_tokens(size, even), *d_y, *d_table),
                              *converted(*d_table, DType::f64)));
  }
}

TEST_P(EmbeddingDevices, PlansItsScratch) {
  const Size size{5000, 300, 20};
  gradient(*draw_tokens(size, even), *random_tensor({size.rows, size.width}, dtype(), "d_y"),
           *random_tensor({size.vocab, size.width}, wide_dtype(), "d_table"));
  const Device meta = Device::meta(device().type);
  Stream planned(meta);
  Arena counted({.device = meta});
  const OwnedTensor tokens({size.rows}, DType::i32, meta),
      d_y({size.rows, size.width}, dtype(), meta),
      d_table({size.vocab, size.width}, wide_dtype(), meta);
  embedding_backward(*tokens, *d_y, *d_table, counted, planned);
  EXPECT_EQ(counted.high_water(), arena().high_water());
  EXPECT_EQ(counted.mark(), 0u);
}

TEST(EmbeddingOnMeta, PlansTheScratchOfAGpu) {
  const Device meta = Device::meta(DeviceType::cuda);
  Stream stream(meta);
  Arena scratch({.device = meta});
  const OwnedTensor tokens({4096}, DType::i32, meta), d_y({4096, 32}, DType::bf16, meta),
      d_table({100, 32}, DType::f32, meta);
  embedding_backward(*tokens, *d_y, *d_table, scratch, stream);
  // Two orders of (id, position), digits of 2 tiles, two sums of each of 64 windows.
  EXPECT_EQ(scratch.high_water(), 4096u * 16u + 2u * 256u * 4u + 64u * 2u * 32u * 4u);
}

}  // namespace
}  // namespace polymoe
