// SPDX-License-Identifier: Apache-2.0
#include "kernels/adamw/adamw.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <string>

#include "support/compare.h"
#include "support/fixture.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::all_close;
using test::random_tensor;

AdamWStep settings(std::int64_t step) {
  return {.learning_rate = 0.01,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .epsilon = 1e-8,
          .weight_decay = 0.1,
          .gradient_scale = 0.25,
          .step = step};
}

class AdamW : public ::testing::TestWithParam<DType> {
 protected:
  Stream stream_{Device::cpu()};
};

TEST_P(AdamW, MatchesThreeStepsOfPyTorch) {
  const DType dtype = GetParam();
  const test::Fixture fixture("adamw.txt");
  OwnedTensor parameter = fixture.tensor("start", dtype);
  OwnedTensor m(parameter->shape(), dtype, Device::cpu());
  OwnedTensor v(parameter->shape(), dtype, Device::cpu());
  for (const std::int64_t step : {1, 2, 3}) {
    const OwnedTensor gradient = fixture.tensor("gradient." + std::to_string(step), dtype);
    adamw(settings(step), *gradient, *parameter, {*m, *v}, {}, stream_);
    EXPECT_TRUE(all_close(*parameter, *fixture.tensor("parameter." + std::to_string(step), dtype),
                          test::tolerance_of(dtype)))
        << "step " << step;
  }
  const test::Tolerance relative{test::tolerance_of(dtype).relative, 0.0};
  EXPECT_TRUE(all_close(*m, *fixture.tensor("m", dtype), {relative.relative, 1e-9}));
  EXPECT_TRUE(all_close(*v, *fixture.tensor("v", dtype), relative));
}

TEST_P(AdamW, DoesNotDependOnThreadsOrPlace) {
  const DType dtype = GetParam();
  const std::int64_t count = 100003;
  const OwnedTensor gradient = random_tensor({count}, dtype, "gradient");
  const int threads = omp_get_max_threads();
  OwnedTensor parameter[2], m[2], v[2];
  for (const int run : {0, 1}) {
    omp_set_num_threads(run == 0 ? 1 : 3);
    const auto at = static_cast<std::size_t>(run);
    parameter[at] = random_tensor({count}, dtype, "parameter");
    m[at] = random_tensor({count}, dtype, "m");
    v[at] = random_tensor({count}, dtype, "v", {5.0, 0.5});
    // A shard that starts elsewhere gives the same bits: the layouts of ranks agree.
    const std::int64_t cut = run == 0 ? 0 : 777;
    for (const auto& [begin, end] : {std::pair{std::int64_t{0}, cut}, std::pair{cut, count}}) {
      adamw(settings(7), gradient->rows(begin, end), parameter[at]->rows(begin, end),
            {m[at]->rows(begin, end), v[at]->rows(begin, end)}, {}, stream_);
    }
  }
  omp_set_num_threads(threads);
  EXPECT_TRUE(test::bitwise_equal(*parameter[0], *parameter[1]));
  EXPECT_TRUE(test::bitwise_equal(*m[0], *m[1]));
  EXPECT_TRUE(test::bitwise_equal(*v[0], *v[1]));
  EXPECT_GT(test::relative_error(*parameter[0], *random_tensor({count}, dtype, "parameter")), 1e-4);
}

TEST_P(AdamW, OnlyElementCountsMustAgree) {
  const DType dtype = GetParam();
  const OwnedTensor gradient = random_tensor({6}, dtype, "gradient");
  OwnedTensor matrix = random_tensor({2, 3}, dtype, "parameter");
  OwnedTensor vector = random_tensor({6}, dtype, "parameter");
  OwnedTensor m({6}, dtype, Device::cpu()), v({6}, dtype, Device::cpu());
  OwnedTensor m2({3, 2}, dtype, Device::cpu()), v2({6}, dtype, Device::cpu());
  adamw(settings(1), *gradient, *vector, {*m, *v}, {}, stream_);
  adamw(settings(1), *gradient, *matrix, {*m2, *v2}, {}, stream_);
  EXPECT_TRUE(test::bitwise_equal(matrix->view({6}), *vector));

  const OwnedTensor none({0}, dtype, Device::cpu());
  EXPECT_NO_THROW(adamw(settings(1), *none, *none, {*none, *none}, {}, stream_));
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings(1), *gradient, *vector, {*none, *v}, {}, stream_);
            }),
            "adamw: moment1 has shape [0], expected [6]");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings(0), *gradient, *vector, {*m, *v}, {}, stream_);
            }),
            "adamw: step is 0, expected at least 1");
}

TEST_P(AdamW, ZeroGradientAndMomentsOnlyDecay) {
  const DType dtype = GetParam();
  const OwnedTensor zero({5}, dtype, Device::cpu());
  OwnedTensor parameter = random_tensor({5}, dtype, "parameter");
  OwnedTensor m({5}, dtype, Device::cpu()), v({5}, dtype, Device::cpu());
  std::vector<double> expected = test::values_of(*parameter);
  for (double& value : expected) value *= 1.0 - 0.01 * 0.1;
  adamw(settings(1), *zero, *parameter, {*m, *v}, {}, stream_);
  EXPECT_TRUE(
      all_close(test::values_of(*parameter), expected, {dtype == DType::f64 ? 1e-15 : 1e-7, 0.0}));
}

INSTANTIATE_TEST_SUITE_P(All, AdamW, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace polymoe
