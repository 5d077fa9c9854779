// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding/embedding.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <vector>

#include "runtime/random.h"
#include "support/compare.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::bitwise_equal;
using test::random_tensor;

OwnedTensor random_tokens(std::int64_t count, std::int64_t vocab) {
  const RandomStream random(3, "tokens");
  OwnedTensor tokens({count}, DType::i32, Device::cpu());
  for (std::int64_t i = 0; i < count; ++i) {
    tokens->data<std::int32_t>()[i] = static_cast<std::int32_t>(
        random.uniform(static_cast<std::uint64_t>(i)) * static_cast<double>(vocab));
  }
  return tokens;
}

class Embedding : public ::testing::TestWithParam<DType> {
 protected:
  Arena scratch_{{.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true}};
  Stream stream_{Device::cpu()};
};

TEST_P(Embedding, CopiesTheTokensRows) {
  const DType dtype = GetParam();
  const std::int64_t rows = 57, vocab = 11, width = 19;
  const OwnedTensor tokens = random_tokens(rows, vocab);
  const OwnedTensor table = random_tensor({vocab, width}, dtype, "table");
  OwnedTensor y = test::poisoned_tensor({rows, width}, dtype);
  embedding_forward(*tokens, *table, *y, stream_);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int32_t token = tokens->data<std::int32_t>()[row];
    ASSERT_TRUE(bitwise_equal(y->rows(row, row + 1), table->rows(token, token + 1))) << row;
  }
}

TEST_P(Embedding, AddsGradientsInTheOrderOfTheRows) {
  const DType dtype = GetParam();
  const std::int64_t rows = 301, vocab = 7, width = 300;
  const OwnedTensor tokens = random_tokens(rows, vocab);
  const OwnedTensor d_y = random_tensor({rows, width}, dtype, "d_y");
  OwnedTensor expected = random_tensor({vocab, width}, dtype, "start");
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t token = tokens->data<std::int32_t>()[row];
    for (std::int64_t i = 0; i < width; ++i) {
      if (dtype == DType::f32) {
        expected->data<float>()[token * width + i] += d_y->data<float>()[row * width + i];
      } else {
        expected->data<double>()[token * width + i] += d_y->data<double>()[row * width + i];
      }
    }
  }
  const int threads = omp_get_max_threads();
  for (const int count : {1, 3}) {
    omp_set_num_threads(count);
    OwnedTensor d_table = random_tensor({vocab, width}, dtype, "start");
    embedding_backward(*tokens, *d_y, *d_table, scratch_, stream_);
    EXPECT_TRUE(bitwise_equal(*d_table, *expected)) << count << " threads";
  }
  omp_set_num_threads(threads);
}

TEST_P(Embedding, NoRowsAreFine) {
  const DType dtype = GetParam();
  const OwnedTensor tokens({0}, DType::i32, Device::cpu()), none({0, 4}, dtype, Device::cpu());
  const OwnedTensor table = random_tensor({3, 4}, dtype, "table");
  embedding_forward(*tokens, *table, *none, stream_);
  embedding_backward(*tokens, *none, *table, scratch_, stream_);
  EXPECT_TRUE(bitwise_equal(*table, *random_tensor({3, 4}, dtype, "table")));
}

TEST_P(Embedding, NamesABadTokenAndItsPosition) {
  const DType dtype = GetParam();
  const OwnedTensor table = random_tensor({5, 4}, dtype, "table");
  const OwnedTensor y({3, 4}, dtype, Device::cpu());
  const auto forward = [&](const OwnedTensor& tokens) {
    embedding_forward(*tokens, *table, *y, stream_);
  };
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              forward(test::tensor_of({3}, DType::i32, {0, 4, 5}));
            }),
            "embedding_forward: token id 5 at position 2 is not in [0, 5)");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              forward(test::tensor_of({3}, DType::i32, {-1, 4, 5}));
            }),
            "embedding_forward: token id -1 at position 0 is not in [0, 5)");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              embedding_backward(*test::tensor_of({3}, DType::i32, {0, 9, 1}), *y, *table, scratch_,
                                 stream_);
            }),
            "embedding_backward: token id 9 at position 1 is not in [0, 5)");
}

INSTANTIATE_TEST_SUITE_P(All, Embedding, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace polymoe
