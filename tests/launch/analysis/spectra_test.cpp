// SPDX-License-Identifier: Apache-2.0
#include "launch/analysis/spectra.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "runtime/error.h"

namespace polymoe {
namespace {

TEST(Spectra, OfAMatrixWithKnownSingularValues) {
  // Rows that are orthogonal: their lengths are the singular values.
  const std::vector<float> matrix = {3, 0, 4, 0, 0, 2, 0, 0, 0, 0, 0, 1};
  const std::vector<double> wide = singular_values(matrix, 3, 4);
  ASSERT_EQ(wide.size(), 3U);
  EXPECT_NEAR(wide[0], 5.0, 1e-12);
  EXPECT_NEAR(wide[1], 2.0, 1e-12);
  EXPECT_NEAR(wide[2], 1.0, 1e-12);
  // The transpose has the same.
  const std::vector<float> transpose = {3, 0, 0, 0, 2, 0, 4, 0, 0, 0, 0, 1};
  const std::vector<double> tall = singular_values(transpose, 4, 3);
  ASSERT_EQ(tall.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(tall[i], wide[i], 1e-12);
  // The squares sum to that of the elements, whatever the matrix.
  const std::vector<float> any = {1, -2, 3, 4, 5, -6};
  double squares = 0.0;
  for (const double value : singular_values(any, 2, 3)) squares += value * value;
  EXPECT_NEAR(squares, 91.0, 1e-10);
}

TEST(Spectra, EffectiveRankCountsDirections) {
  EXPECT_NEAR(effective_rank(std::vector<double>{2, 2, 2, 2}), 4.0, 1e-12);
  EXPECT_NEAR(effective_rank(std::vector<double>{7, 0, 0}), 1.0, 1e-12);
  EXPECT_EQ(effective_rank(std::vector<double>{0, 0}), 0.0);
  // Shares of 1/2, 1/4, 1/4 have an entropy of 1.5 ln 2.
  EXPECT_NEAR(effective_rank(std::vector<double>{2, 1, 1}), std::pow(2.0, 1.5), 1e-12);
}

TEST(Spectra, RefusesWhatIsNotFinite) {
  const std::vector<float> matrix = {1, std::numeric_limits<float>::quiet_NaN(), 0, 1};
  EXPECT_THROW(singular_values(matrix, 2, 2), Error);
}

}  // namespace
}  // namespace polymoe
