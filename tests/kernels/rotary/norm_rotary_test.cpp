// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/norm_rotary.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <string>
#include <vector>

#include "kernels/rms_norm/rms_norm.h"
#include "support/compare.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::poisoned_tensor;
using test::random_tensor;
using test::relative_error;

constexpr double epsilon = 1e-5;

struct Case {
  Shape shape;  // [rows, heads, d]
  RotaryPositions positions;
};

// One pair; heads off the vectors; more pairs than are rotated at a time; rows beyond a tile, a
// sequence that ends within one, a last one cut short; one position for all rows, far out.
const std::vector<Case> cases = {
    {{5, 1, 2}, {.sequence_length = 5, .first_position = 0, .theta = 1e4}},
    {{37, 3, 6}, {.sequence_length = 10, .first_position = 3, .theta = 1e4}},
    {{200, 2, 300}, {.sequence_length = 150, .first_position = 1000, .theta = 5e5}},
    {{130, 4, 64}, {.sequence_length = 65, .first_position = 0, .theta = 1e4}},
    {{9, 2, 128}, {.sequence_length = 1, .first_position = 100000, .theta = 1e4}},
    {{2500, 1, 8}, {.sequence_length = 50, .first_position = 7, .theta = 1e4}},
    {{0, 2, 8}, {.sequence_length = 4, .first_position = 0, .theta = 1e4}}};

class NormRotary : public ::testing::TestWithParam<DType> {
 protected:
  double tolerance() const { return GetParam() == DType::f64 ? 1e-13 : 2e-6; }

  Arena scratch_{{.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true}};
  Stream stream_{Device::cpu()};
};

// The two operations that it fuses, each tested against PyTorch.
TEST_P(NormRotary, IsTheNormThenTheRotation) {
  const DType dtype = GetParam();
  for (const auto& [shape, positions] : cases) {
    SCOPED_TRACE(to_string(shape));
    const std::int64_t rows = shape[0], width = shape[1] * shape[2];
    const Shape flat{rows, width};
    const OwnedTensor x = random_tensor(shape, dtype, "x", {0.3, 2.0}),
                      d_y = random_tensor(shape, dtype, "d_y"),
                      weight = random_tensor({width}, dtype, "weight", {1.0, 0.3});
    const OwnedTensor y = poisoned_tensor(shape, dtype), inv_rms = poisoned_tensor({rows}, dtype),
                      d_x = poisoned_tensor(shape, dtype),
                      d_weight = random_tensor({width}, dtype, "start");
    norm_rotary_forward(positions, *x, *weight, epsilon, *y, *inv_rms, stream_);
    norm_rotary_backward(positions, *d_y, *x, *inv_rms, *weight, *d_x, *d_weight, scratch_,
                         stream_);

    const OwnedTensor two_y = poisoned_tensor(shape, dtype),
                      two_inv_rms = poisoned_tensor({rows}, dtype),
                      two_d = random_tensor(shape, dtype, "d_y"),
                      two_d_weight = random_tensor({width}, dtype, "start");
    rms_norm_forward(x->view(flat), *weight, epsilon, two_y->view(flat), *two_inv_rms, stream_);
    rotary_forward(positions, *two_y, stream_);
    rotary_backward(positions, *two_d, stream_);
    rms_norm_backward(two_d->view(flat), x->view(flat), *two_inv_rms, *weight, Write::overwrite,
                      two_d->view(flat), *two_d_weight, scratch_, stream_);
    EXPECT_TRUE(bitwise_equal(*inv_rms, *two_inv_rms));
    if (rows == 0) {
      EXPECT_TRUE(bitwise_equal(*d_weight, *two_d_weight));
      continue;
    }
    EXPECT_LE(relative_error(*y, *two_y), tolerance());
    EXPECT_LE(relative_error(*d_x, *two_d), tolerance());
    EXPECT_LE(relative_error(*d_weight, *two_d_weight), tolerance());

    // In place, the same bits.
    const OwnedTensor over_x = random_tensor(shape, dtype, "x", {0.3, 2.0}),
                      over_d_y = random_tensor(shape, dtype, "d_y"),
                      again = random_tensor({width}, dtype, "start");
    norm_rotary_forward(positions, *over_x, *weight, epsilon, *over_x, *two_inv_rms, stream_);
    norm_rotary_backward(positions, *over_d_y, *x, *inv_rms, *weight, *over_d_y, *again, scratch_,
                         stream_);
    EXPECT_TRUE(bitwise_equal(*over_x, *y));
    EXPECT_TRUE(bitwise_equal(*over_d_y, *d_x));
    EXPECT_TRUE(bitwise_equal(*again, *d_weight));
  }
}

// So that any layout of sequences over ranks, and decoding, rotate a row by the same angles.
TEST_P(NormRotary, ARowsBitsDependOnItsPositionAlone) {
  const DType dtype = GetParam();
  const std::int64_t rows = 210, length = 105;
  const OwnedTensor x = random_tensor({rows, 2, 12}, dtype, "x"),
                    weight = random_tensor({24}, dtype, "weight"),
                    y = poisoned_tensor(x->shape(), dtype),
                    inv_rms = poisoned_tensor({rows}, dtype),
                    alone = poisoned_tensor(x->shape(), dtype);
  norm_rotary_forward({.sequence_length = length, .first_position = 7, .theta = 1e4}, *x, *weight,
                      epsilon, *y, *inv_rms, stream_);
  for (std::int64_t row = 0; row < rows; ++row) {
    const RotaryPositions position{
        .sequence_length = 1, .first_position = 7 + row % length, .theta = 1e4};
    norm_rotary_forward(position, x->rows(row, row + 1), *weight, epsilon,
                        alone->rows(row, row + 1), inv_rms->rows(row, row + 1), stream_);
  }
  EXPECT_TRUE(bitwise_equal(*alone, *y));
}

TEST_P(NormRotary, DoesNotDependOnTheNumberOfThreads) {
  const DType dtype = GetParam();
  const Shape shape{1003, 3, 22};
  const RotaryPositions positions{.sequence_length = 90, .first_position = 2, .theta = 1e4};
  const OwnedTensor x = random_tensor(shape, dtype, "x"), d_y = random_tensor(shape, dtype, "d_y"),
                    weight = random_tensor({66}, dtype, "weight");
  const int threads = omp_get_max_threads();
  OwnedTensor y[2], d_x[2], d_weight[2];
  for (const int run : {0, 1}) {
    omp_set_num_threads(run == 0 ? 1 : 3);
    const auto at = static_cast<std::size_t>(run);
    const OwnedTensor inv_rms = poisoned_tensor({1003}, dtype);
    y[at] = poisoned_tensor(shape, dtype);
    d_x[at] = poisoned_tensor(shape, dtype);
    d_weight[at] = OwnedTensor({66}, dtype, Device::cpu());
    norm_rotary_forward(positions, *x, *weight, epsilon, *y[at], *inv_rms, stream_);
    norm_rotary_backward(positions, *d_y, *x, *inv_rms, *weight, *d_x[at], *d_weight[at], scratch_,
                         stream_);
  }
  omp_set_num_threads(threads);
  EXPECT_TRUE(bitwise_equal(*y[0], *y[1]));
  EXPECT_TRUE(bitwise_equal(*d_x[0], *d_x[1]));
  EXPECT_TRUE(bitwise_equal(*d_weight[0], *d_weight[1]));
}

INSTANTIATE_TEST_SUITE_P(All, NormRotary, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

TEST(NormRotaryGradient, MatchesDifferences) {
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true});
  Stream stream(Device::cpu());
  const Shape shape{19, 3, 10};
  const RotaryPositions positions{.sequence_length = 7, .first_position = 2, .theta = 100.0};
  const OwnedTensor x = random_tensor(shape, DType::f64, "x", {0.5, 2.0}),
                    weight = random_tensor({30}, DType::f64, "weight"),
                    d_y = random_tensor(shape, DType::f64, "d_y");
  const OwnedTensor y = poisoned_tensor(shape, DType::f64),
                    inv_rms = poisoned_tensor({19}, DType::f64);
  const auto loss = [&] {
    norm_rotary_forward(positions, *x, *weight, epsilon, *y, *inv_rms, stream);
    return test::inner_product(*d_y, *y);
  };
  loss();
  const OwnedTensor d_x = poisoned_tensor(shape, DType::f64),
                    d_weight({30}, DType::f64, Device::cpu());
  norm_rotary_backward(positions, *d_y, *x, *inv_rms, *weight, *d_x, *d_weight, scratch, stream);
  EXPECT_TRUE(test::gradient_matches("x", *x, *d_x, loss));
  EXPECT_TRUE(test::gradient_matches("weight", *weight, *d_weight, loss));
}

TEST(NormRotaryErrors, NameTheArgument) {
  Stream stream(Device::cpu());
  const RotaryPositions positions{.sequence_length = 3, .first_position = 0, .theta = 1e4};
  const OwnedTensor x = random_tensor({3, 2, 4}, DType::f32, "x"),
                    odd = random_tensor({3, 2, 5}, DType::f32, "x"),
                    weight = random_tensor({4}, DType::f32, "weight");
  const OwnedTensor inv_rms({3}, DType::f32, Device::cpu());
  const auto message = [&](const RotaryPositions& at, const OwnedTensor& input) {
    return test::message_of<InvalidArgument>(
        [&] { norm_rotary_forward(at, *input, *weight, epsilon, *input, *inv_rms, stream); });
  };
  EXPECT_EQ(message(positions, x), "norm_rotary_forward: weight has shape [4], expected [8]");
  EXPECT_EQ(message(positions, odd),
            "norm_rotary_forward: the head dimension is 5, expected an even number");
  EXPECT_EQ(message({}, x), "norm_rotary_forward: sequence_length is 0, expected at least 1");
}

TEST(NormRotaryOnMeta, TakesTheSameScratch) {
  const RotaryPositions positions{.sequence_length = 100, .first_position = 0, .theta = 1e4};
  std::size_t high_water[2];
  for (const Device device : {Device::cpu(), Device::meta()}) {
    Arena scratch({.device = device, .capacity = std::size_t{1} << 24, .poison = false});
    Stream stream(device);
    const OwnedTensor x({300, 2, 32}, DType::f32, device), weight({64}, DType::f32, device);
    const OwnedTensor inv_rms({300}, DType::f32, device);
    norm_rotary_backward(positions, *x, *x, *inv_rms, *weight, *x, *weight, scratch, stream);
    EXPECT_EQ(scratch.mark(), 0u);
    high_water[device == Device::meta() ? 1 : 0] = scratch.high_water();
  }
  EXPECT_GT(high_water[0], 0u);
  EXPECT_EQ(high_water[0], high_water[1]);
}

}  // namespace
}  // namespace polymoe
