// SPDX-License-Identifier: Apache-2.0
// The fused norm and rotation, on every device, against the CPU in f64.
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "kernels/rotary/norm_rotary.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::converted;
using test::norm_tolerance;
using test::poisoned_tensor;
using test::random_tensor;
using test::relative_error;

constexpr double epsilon = 1e-5;

class NormRotaryDevices : public test::OnDevice {
 protected:
  void compare(const Shape& shape, const RotaryPositions& positions) {
    SCOPED_TRACE(to_string(shape));
    const std::int64_t rows = shape[0], width = shape[1] * shape[2];
    const OwnedTensor x = random_tensor(shape, dtype(), "x", {0.2, 3.0}),
                      d_y = random_tensor(shape, dtype(), "d_y"),
                      w = random_tensor({width}, dtype(), "w", {1.0, 0.2}),
                      d_w = random_tensor({width}, wide_dtype(), "d_w");
    const OwnedTensor x64 = converted(*x, DType::f64), w64 = converted(*w, DType::f64),
                      d_w64 = converted(*d_w, DType::f64), y64 = poisoned_tensor(shape, DType::f64),
                      d_x64 = poisoned_tensor(shape, DType::f64),
                      inv_rms64 = poisoned_tensor({rows}, DType::f64);
    norm_rotary_forward(positions, *x64, *w64, epsilon, *y64, *inv_rms64, cpu_);
    norm_rotary_backward(positions, *converted(*d_y, DType::f64), *x64, *inv_rms64, *w64, *d_x64,
                         *d_w64, cpu_arena_, cpu_);

    const OwnedTensor on_x = moved(*x), on_d_y = moved(*d_y), on_w = moved(*w),
                      on_d_w = moved(*d_w), y = poisoned(shape, dtype()),
                      d_x = poisoned(shape, dtype()), inv_rms = poisoned({rows}, wide_dtype());
    norm_rotary_forward(positions, *on_x, *on_w, epsilon, *y, *inv_rms, stream());
    norm_rotary_backward(positions, *on_d_y, *on_x, *inv_rms, *on_w, *d_x, *on_d_w, arena(),
                         stream());
    EXPECT_LE(relative_error(*fetched(*y), *y64), norm_tolerance(dtype()));
    EXPECT_LE(relative_error(*fetched(*inv_rms), *inv_rms64), 1e-5);
    EXPECT_LE(relative_error(*fetched(*d_x), *d_x64), norm_tolerance(dtype()));
    EXPECT_LE(relative_error(*fetched(*on_d_w), *d_w64), 1e-5);
  }

  Stream cpu_{Device::cpu()};
  Arena cpu_arena_{{.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true}};
};
INSTANTIATE_TEST_SUITE_P(All, NormRotaryDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

// Rows of a warp with one, two and four units for a thread, some of them empty; of a block with two
// and four; off the vectors; wider than registers hold; heads whose table of angles is too large.
TEST_P(NormRotaryDevices, AgreesWithDoubleAtEveryWidth) {
  const RotaryPositions positions{.sequence_length = 16, .first_position = 3000, .theta = 1e4};
  for (const auto& [heads, head_dim] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 16},
                                                          {3, 16},
                                                          {5, 48},
                                                          {4, 128},
                                                          {9, 64},
                                                          {7, 128},
                                                          {16, 128},
                                                          {24, 128},
                                                          {40, 128},
                                                          {96, 128},
                                                          {160, 128},
                                                          {320, 128},
                                                          {5, 6},
                                                          {3, 100},
                                                          {1, 2048},
                                                          {1, 16384}}) {
    compare({head_dim * heads > 10000 ? 5 : 37, heads, head_dim}, positions);
  }
}

// Sequences of one position, that end within a block, longer than all rows; far out.
TEST_P(NormRotaryDevices, AgreesWithDoubleAtEveryPosition) {
  for (const std::int64_t length : {1, 5, 64, 4096}) {
    for (const std::int64_t first : {0, 100000}) {
      compare({77, 4, 64}, {.sequence_length = length, .first_position = first, .theta = 5e5});
      compare({77, 2, 6}, {.sequence_length = length, .first_position = first, .theta = 5e5});
    }
  }
}

// More rows than blocks: every block works on several, an odd number too.
TEST_P(NormRotaryDevices, AgreesWithDoubleOnManyRows) {
  const RotaryPositions positions{.sequence_length = 4096, .first_position = 0, .theta = 1e4};
  compare({512 * 19 + 5, 2, 32}, positions);
  compare({4099, 4, 128}, positions);
}

TEST_P(NormRotaryDevices, MayOverwriteEitherInputAndRepeatsItsBits) {
  const RotaryPositions positions{.sequence_length = 100, .first_position = 0, .theta = 1e4};
  for (const Shape& shape : {Shape{301, 16, 128}, Shape{301, 24, 128}, Shape{301, 5, 6}}) {
    SCOPED_TRACE(to_string(shape));
    const std::int64_t width = shape[1] * shape[2];
    const OwnedTensor x = random_tensor(shape, dtype(), "x"),
                      d_y = random_tensor(shape, dtype(), "d_y"),
                      w = moved(*random_tensor({width}, dtype(), "w"));
    const OwnedTensor over_x = moved(*x), over_d_y = moved(*d_y), y = poisoned(shape, dtype()),
                      d_x = poisoned(shape, dtype()), inv_rms = poisoned({shape[0]}, wide_dtype());
    const OwnedTensor first({width}, wide_dtype(), device()),
        second({width}, wide_dtype(), device());
    norm_rotary_forward(positions, *over_x, *w, epsilon, *y, *inv_rms, stream());
    norm_rotary_backward(positions, *over_d_y, *over_x, *inv_rms, *w, *d_x, *first, arena(),
                         stream());
    norm_rotary_backward(positions, *over_d_y, *over_x, *inv_rms, *w, *over_d_y, *second, arena(),
                         stream());
    norm_rotary_forward(positions, *over_x, *w, epsilon, *over_x, *inv_rms, stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(*over_d_y), *fetched(*d_x)));
    EXPECT_TRUE(test::bitwise_equal(*fetched(*second), *fetched(*first)));
    EXPECT_TRUE(test::bitwise_equal(*fetched(*over_x), *fetched(*y)));
  }
}

TEST_P(NormRotaryDevices, NoRows) {
  const RotaryPositions positions{.sequence_length = 4, .first_position = 0, .theta = 1e4};
  const OwnedTensor x({0, 2, 16}, dtype(), device()), inv_rms({0}, wide_dtype(), device());
  const OwnedTensor w = moved(*random_tensor({32}, dtype(), "w")),
                    start = random_tensor({32}, wide_dtype(), "d_w"), d_w = moved(*start);
  norm_rotary_forward(positions, *x, *w, epsilon, *x, *inv_rms, stream());
  norm_rotary_backward(positions, *x, *x, *inv_rms, *w, *x, *d_w, arena(), stream());
  EXPECT_TRUE(test::bitwise_equal(*fetched(*d_w), *converted(*start, DType::f64)));
}

}  // namespace
}  // namespace polymoe
