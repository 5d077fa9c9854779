// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul/matmul.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <tuple>
#include <vector>

#include "support/compare.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::poisoned_tensor;
using test::random_tensor;
using test::values_of;

struct Extents {
  std::int64_t m, n, k;
};

Shape stored(std::int64_t rows, std::int64_t columns, Transpose transpose) {
  return transpose == Transpose::yes ? Shape{columns, rows} : Shape{rows, columns};
}

// The definition, in double.
std::vector<double> expected_product(const Extents& extents, const Tensor& a, Transpose transpose_a,
                                     const Tensor& b, Transpose transpose_b,
                                     const std::vector<double>& start) {
  const std::vector<double> left = values_of(a), right = values_of(b);
  const auto [m, n, k] = extents;
  std::vector<double> c = start;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t l = 0; l < k; ++l) {
        const std::int64_t at_a = transpose_a == Transpose::yes ? l * m + i : i * k + l;
        const std::int64_t at_b = transpose_b == Transpose::yes ? j * k + l : l * n + j;
        c[static_cast<std::size_t>(i * n + j)] +=
            left[static_cast<std::size_t>(at_a)] * right[static_cast<std::size_t>(at_b)];
      }
    }
  }
  return c;
}

class Matmul : public ::testing::TestWithParam<std::tuple<DType, Transpose, Transpose>> {};

TEST_P(Matmul, IsTheDefinition) {
  const auto [dtype, transpose_a, transpose_b] = GetParam();
  Stream stream(Device::cpu());
  // One element, odd sizes across the tile edges of the double path, a long sum, zero extents.
  for (const Extents extents :
       {Extents{1, 1, 1}, Extents{33, 65, 129}, Extents{7, 130, 300}, Extents{100, 3, 2000},
        Extents{0, 5, 4}, Extents{5, 0, 4}, Extents{5, 4, 0}}) {
    const auto [m, n, k] = extents;
    const OwnedTensor a = random_tensor(stored(m, k, transpose_a), dtype, "a");
    const OwnedTensor b = random_tensor(stored(k, n, transpose_b), dtype, "b");
    // Rounding of k partial sums of size sqrt(k), which add up as a random walk.
    const double epsilon = dtype == DType::f64 ? 0x1p-51 : 0x1p-22;
    const test::Tolerance tolerance{0.0, epsilon * (static_cast<double>(k) + 4.0)};

    OwnedTensor c = poisoned_tensor({m, n}, dtype);
    matmul(*a, transpose_a, *b, transpose_b, Write::overwrite, *c, stream);
    const std::vector<double> zero(static_cast<std::size_t>(m * n), 0.0);
    EXPECT_TRUE(test::all_close(values_of(*c),
                                expected_product(extents, *a, transpose_a, *b, transpose_b, zero),
                                tolerance))
        << m << " " << n << " " << k;

    OwnedTensor sum = random_tensor({m, n}, dtype, "c");
    const std::vector<double> start = values_of(*sum);
    matmul(*a, transpose_a, *b, transpose_b, Write::accumulate, *sum, stream);
    EXPECT_TRUE(test::all_close(values_of(*sum),
                                expected_product(extents, *a, transpose_a, *b, transpose_b, start),
                                tolerance))
        << m << " " << n << " " << k;
  }
}

// Extents that are divided over the threads, and that either library takes.
TEST_P(Matmul, IsTheDefinitionOnAnyNumberOfThreads) {
  const auto [dtype, transpose_a, transpose_b] = GetParam();
  Stream stream(Device::cpu());
  const int before = omp_get_max_threads();
  for (const Extents extents :
       {Extents{900, 1000, 20}, Extents{3, 700, 60}, Extents{257, 31, 40}}) {
    const auto [m, n, k] = extents;
    const OwnedTensor a = random_tensor(stored(m, k, transpose_a), dtype, "a");
    const OwnedTensor b = random_tensor(stored(k, n, transpose_b), dtype, "b");
    const OwnedTensor start = random_tensor({m, n}, dtype, "c");
    const std::vector<double> expected =
        expected_product(extents, *a, transpose_a, *b, transpose_b, values_of(*start));
    const double epsilon = dtype == DType::f64 ? 0x1p-51 : 0x1p-22;
    for (const int threads : {1, 2, 3}) {
      omp_set_num_threads(threads);
      OwnedTensor c = random_tensor({m, n}, dtype, "c");
      matmul(*a, transpose_a, *b, transpose_b, Write::accumulate, *c, stream);
      EXPECT_TRUE(
          test::all_close(values_of(*c), expected, {0.0, epsilon * (static_cast<double>(k) + 4.0)}))
          << m << " " << n << " " << k << " on " << threads << " threads";
    }
    omp_set_num_threads(before);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Matmul,
                         ::testing::Combine(::testing::Values(DType::f32, DType::f64),
                                            ::testing::Values(Transpose::no, Transpose::yes),
                                            ::testing::Values(Transpose::no, Transpose::yes)),
                         [](const auto& test) {
                           return std::string(name_of(std::get<0>(test.param))) +
                                  (std::get<1>(test.param) == Transpose::yes ? "_t" : "_n") +
                                  (std::get<2>(test.param) == Transpose::yes ? "t" : "n");
                         });

TEST(MatmulErrors, NameTheArgumentAndBothShapes) {
  Stream stream(Device::cpu());
  const OwnedTensor a = random_tensor({3, 4}, DType::f32, "a");
  const OwnedTensor b = random_tensor({5, 6}, DType::f32, "b");
  OwnedTensor c({3, 6}, DType::f32, Device::cpu());
  try {
    matmul(*a, Transpose::no, *b, Transpose::no, Write::overwrite, *c, stream);
    FAIL() << "accepted inner extents 4 and 5";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "matmul: b has shape [5, 6], expected [4, 6]");
  }
  const OwnedTensor ids({4, 6}, DType::i32, Device::cpu());
  EXPECT_THROW(matmul(*a, Transpose::no, *ids, Transpose::no, Write::overwrite, *c, stream),
               InvalidArgument);
  EXPECT_THROW(matmul(Tensor{}, Transpose::no, *b, Transpose::no, Write::overwrite, *c, stream),
               InvalidArgument);
}

TEST(MatmulOnMeta, ChecksAndDoesNothing) {
  Stream stream(Device::meta());
  const OwnedTensor a({1 << 20, 1 << 12}, DType::f32, Device::meta());
  const OwnedTensor b({1 << 12, 1 << 16}, DType::f32, Device::meta());
  const OwnedTensor c({1 << 20, 1 << 16}, DType::f32, Device::meta());
  EXPECT_NO_THROW(matmul(*a, Transpose::no, *b, Transpose::no, Write::overwrite, *c, stream));
  EXPECT_THROW(matmul(*b, Transpose::no, *a, Transpose::no, Write::overwrite, *c, stream),
               InvalidArgument);
}

}  // namespace
}  // namespace polymoe
