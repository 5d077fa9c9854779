// SPDX-License-Identifier: Apache-2.0
#include "kernels/output_loss/output_loss.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/random.h"
#include "support/compare.h"
#include "support/fixture.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::poisoned_tensor;
using test::random_tensor;
using test::tolerance_of;
using test::values_of;

// All tensors of one call; token_loss and d_x are poisoned, d_weight is zero.
struct Problem {
  Problem(std::int64_t rows, std::int64_t hidden, std::int64_t vocab, DType dtype,
          double deviation = 1.0)
      : x(random_tensor({rows, hidden}, dtype, "x", {0.0, deviation})),
        weight(random_tensor({vocab, hidden}, dtype, "weight")),
        targets({rows}, DType::i32, Device::cpu()),
        token_loss(poisoned_tensor({rows}, dtype)),
        d_x(poisoned_tensor({rows, hidden}, dtype)),
        d_weight({vocab, hidden}, dtype, Device::cpu()) {
    const RandomStream random(5, "targets");
    for (std::int64_t row = 0; row < rows; ++row) {
      const double uniform = random.uniform(static_cast<std::uint64_t>(row));
      targets->data<std::int32_t>()[row] =
          row % 7 == 3 ? -1 : static_cast<std::int32_t>(uniform * static_cast<double>(vocab));
    }
  }
  void forward(Arena& scratch, Stream& stream) {
    output_loss_forward(*x, *weight, *targets, *token_loss, scratch, stream);
  }
  void forward_backward(double scale, Arena& scratch, Stream& stream) {
    output_loss_forward_backward(*x, *weight, *targets, scale, *token_loss, *d_x, *d_weight,
                                 scratch, stream);
  }

  OwnedTensor x, weight, targets, token_loss, d_x, d_weight;
};

class OutputLoss : public ::testing::TestWithParam<DType> {
 protected:
  Arena scratch_{{.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true}};
  Stream stream_{Device::cpu()};
};

TEST_P(OutputLoss, MatchesPyTorch) {
  const DType dtype = GetParam();
  const test::Fixture fixture("output_loss.txt");
  Problem problem(13, 8, 29, dtype);
  problem.x = fixture.tensor("x", dtype);
  problem.weight = fixture.tensor("weight", dtype);
  problem.targets = fixture.tensor("targets", DType::i32);
  problem.forward(scratch_, stream_);
  EXPECT_TRUE(
      all_close(*problem.token_loss, *fixture.tensor("token_loss", dtype), tolerance_of(dtype)));
  std::fill_n(static_cast<char*>(problem.token_loss->raw()), problem.token_loss->bytes(), '\xff');
  problem.forward_backward(0.125, scratch_, stream_);
  EXPECT_TRUE(
      all_close(*problem.token_loss, *fixture.tensor("token_loss", dtype), tolerance_of(dtype)));
  EXPECT_TRUE(all_close(*problem.d_x, *fixture.tensor("d_x", dtype), tolerance_of(dtype)));
  EXPECT_TRUE(
      all_close(*problem.d_weight, *fixture.tensor("d_weight", dtype), tolerance_of(dtype)));
}

// Rows of a wide vocabulary need several chunks; those of a single row each are the reference.
TEST_P(OutputLoss, ChunksDoNotShow) {
  const DType dtype = GetParam();
  const std::int64_t rows = 530, hidden = 8, vocab = 9001;
  Problem all(rows, hidden, vocab, dtype), single(rows, hidden, vocab, dtype);
  all.forward_backward(0.5, scratch_, stream_);
  EXPECT_LT(scratch_.high_water(), static_cast<std::size_t>(rows * vocab) * size_of(dtype));
  for (std::int64_t row = 0; row < rows; row += 53) {
    OwnedTensor d_weight({vocab, hidden}, dtype, Device::cpu());
    output_loss_forward_backward(single.x->rows(row, row + 1), *single.weight,
                                 single.targets->rows(row, row + 1), 0.5,
                                 single.token_loss->rows(row, row + 1),
                                 single.d_x->rows(row, row + 1), *d_weight, scratch_, stream_);
    EXPECT_TRUE(all_close(all.token_loss->rows(row, row + 1), single.token_loss->rows(row, row + 1),
                          tolerance_of(dtype)));
    EXPECT_TRUE(all_close(all.d_x->rows(row, row + 1), single.d_x->rows(row, row + 1),
                          {dtype == DType::f64 ? 1e-11 : 1e-4, tolerance_of(dtype).absolute}));
  }
  // Softmax minus one-hot sums to zero over the vocabulary, so the columns of d_weight do.
  for (std::int64_t column = 0; column < hidden; ++column) {
    double sum = 0.0, magnitude = 0.0;
    for (std::int64_t token = 0; token < vocab; ++token) {
      const double value =
          values_of(all.d_weight->rows(token, token + 1))[static_cast<std::size_t>(column)];
      sum += value;
      magnitude += std::abs(value);
    }
    EXPECT_NEAR(sum, 0.0, magnitude * (dtype == DType::f64 ? 1e-12 : 1e-6));
  }
}

TEST_P(OutputLoss, LargeLogitsDoNotOverflow) {
  const DType dtype = GetParam();
  Problem problem(20, 16, 333, dtype, 1000.0);
  problem.forward_backward(1.0, scratch_, stream_);
  const std::vector<double> x = values_of(*problem.x), weight = values_of(*problem.weight);
  for (std::size_t row = 0; row < 20; ++row) {
    const std::int32_t target = problem.targets->data<std::int32_t>()[row];
    if (target < 0) continue;
    std::vector<double> logits(333, 0.0);
    for (std::size_t token = 0; token < 333; ++token) {
      for (std::size_t i = 0; i < 16; ++i)
        logits[token] += x[row * 16 + i] * weight[token * 16 + i];
    }
    const double maximum = *std::max_element(logits.begin(), logits.end());
    double sum = 0.0;
    for (const double logit : logits) sum += std::exp(logit - maximum);
    const double expected = maximum + std::log(sum) - logits[static_cast<std::size_t>(target)];
    EXPECT_NEAR(values_of(*problem.token_loss)[row], expected,
                maximum * (dtype == DType::f64 ? 1e-14 : 1e-6));
  }
  for (const double value : values_of(*problem.d_x)) ASSERT_TRUE(std::isfinite(value));
  for (const double value : values_of(*problem.d_weight)) ASSERT_TRUE(std::isfinite(value));
}

TEST_P(OutputLoss, GradientMayReplaceTheInput) {
  const DType dtype = GetParam();
  Problem apart(600, 12, 9000, dtype), in_place(600, 12, 9000, dtype);
  apart.forward_backward(0.25, scratch_, stream_);
  output_loss_forward_backward(*in_place.x, *in_place.weight, *in_place.targets, 0.25,
                               *in_place.token_loss, *in_place.x, *in_place.d_weight, scratch_,
                               stream_);
  EXPECT_TRUE(bitwise_equal(*in_place.x, *apart.d_x));
  EXPECT_TRUE(bitwise_equal(*in_place.d_weight, *apart.d_weight));

  // And d_weight adds up.
  std::vector<double> doubled = values_of(*apart.d_weight);
  for (double& value : doubled) value *= 2.0;
  apart.forward_backward(0.25, scratch_, stream_);
  EXPECT_TRUE(all_close(values_of(*apart.d_weight), doubled, tolerance_of(dtype)));
}

TEST_P(OutputLoss, DoesNotDependOnTheNumberOfThreads) {
  const DType dtype = GetParam();
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  Problem one(300, 32, 1000, dtype);
  one.forward_backward(0.5, scratch_, stream_);
  omp_set_num_threads(2);
  Problem two(300, 32, 1000, dtype);
  two.forward_backward(0.5, scratch_, stream_);
  Problem again(300, 32, 1000, dtype);
  again.forward_backward(0.5, scratch_, stream_);
  omp_set_num_threads(threads);
  EXPECT_TRUE(bitwise_equal(*again.token_loss, *two.token_loss));
  EXPECT_TRUE(bitwise_equal(*again.d_x, *two.d_x));
  EXPECT_TRUE(bitwise_equal(*again.d_weight, *two.d_weight));
  // Products in f32 are cut by the number of threads: then sums are equal to rounding. Our own f64
  // product, and all sums around either, are the same bits.
  const double rounding = dtype == DType::f64 ? 0.0 : 1e-6;
  EXPECT_LE(test::relative_error(*one.token_loss, *two.token_loss), rounding);
  EXPECT_LE(test::relative_error(*one.d_x, *two.d_x), rounding);
  EXPECT_LE(test::relative_error(*one.d_weight, *two.d_weight), rounding);
}

TEST_P(OutputLoss, NoRowsAndNoTargetsAreFine) {
  const DType dtype = GetParam();
  Problem none(0, 4, 9, dtype);
  none.forward(scratch_, stream_);
  none.forward_backward(1.0, scratch_, stream_);
  EXPECT_EQ(values_of(*none.d_weight), std::vector<double>(36, 0.0));

  Problem ignored(5, 4, 9, dtype);
  std::fill_n(ignored.targets->data<std::int32_t>(), 5, -1);
  ignored.forward_backward(1.0, scratch_, stream_);
  EXPECT_EQ(values_of(*ignored.token_loss), std::vector<double>(5, 0.0));
  EXPECT_EQ(values_of(*ignored.d_x), std::vector<double>(20, 0.0));
  EXPECT_EQ(values_of(*ignored.d_weight), std::vector<double>(36, 0.0));

  Problem unscaled(5, 4, 9, dtype);
  unscaled.forward_backward(0.0, scratch_, stream_);
  EXPECT_EQ(values_of(*unscaled.d_weight), std::vector<double>(36, 0.0));
}

TEST_P(OutputLoss, NamesABadTargetAndItsPosition) {
  Problem problem(5, 4, 9, GetParam());
  problem.targets->data<std::int32_t>()[2] = 9;
  EXPECT_EQ(test::message_of<InvalidArgument>([&] { problem.forward(scratch_, stream_); }),
            "output_loss_forward: target 9 at position 2 is not in [-1, 9)");
  problem.targets->data<std::int32_t>()[2] = -2;
  EXPECT_EQ(
      test::message_of<InvalidArgument>([&] { problem.forward_backward(1.0, scratch_, stream_); }),
      "output_loss_forward_backward: target -2 at position 2 is not in [-1, 9)");
  EXPECT_THROW(output_loss_forward(*problem.x, *problem.x, *problem.x, *problem.token_loss,
                                   scratch_, stream_),
               InvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(All, OutputLoss, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

TEST(OutputLossGradient, MatchesDifferences) {
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true});
  Stream stream(Device::cpu());
  Problem problem(11, 6, 17, DType::f64);
  const double scale = 0.3;
  const auto loss = [&] {
    problem.forward(scratch, stream);
    double sum = 0.0;
    for (const double value : values_of(*problem.token_loss)) sum += scale * value;
    return sum;
  };
  problem.forward_backward(scale, scratch, stream);
  EXPECT_TRUE(test::gradient_matches("x", *problem.x, *problem.d_x, loss));
  EXPECT_TRUE(test::gradient_matches("weight", *problem.weight, *problem.d_weight, loss));
}

TEST(OutputLossOnMeta, TakesTheSameScratch) {
  std::size_t high_water[2];
  for (const Device device : {Device::cpu(), Device::meta()}) {
    Arena scratch({.device = device, .capacity = std::size_t{1} << 26, .poison = false});
    Stream stream(device);
    const OwnedTensor x({80, 8}, DType::f32, device), weight({900, 8}, DType::f32, device);
    const OwnedTensor targets({80}, DType::i32, device), loss({80}, DType::f32, device);
    output_loss_forward_backward(*x, *weight, *targets, 1.0, *loss, *x, *weight, scratch, stream);
    EXPECT_EQ(scratch.mark(), 0u);
    high_water[device == Device::meta() ? 1 : 0] = scratch.high_water();
  }
  EXPECT_EQ(high_water[0], 80u * 900u * 4u);
  EXPECT_EQ(high_water[0], high_water[1]);
}

}  // namespace
}  // namespace polymoe
