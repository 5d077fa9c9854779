// SPDX-License-Identifier: Apache-2.0
#include "launch/analysis/spectra.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/error.h"

// LAPACK's, in the library of OpenBLAS, which has no header for C.
extern "C" void dgesdd_(const char* job, const int* rows, const int* columns, double* matrix,
                        const int* leading, double* values, double* left, const int* leading_left,
                        double* right, const int* leading_right, double* work, const int* work_size,
                        int* integers, int* info);

namespace polymoe {

std::vector<double> singular_values(std::span<const float> matrix, std::int64_t rows,
                                    std::int64_t columns) {
  // A matrix by rows is its transpose by columns, which has the same singular values.
  std::vector<double> copy(matrix.begin(), matrix.end());
  const int m = static_cast<int>(columns), n = static_cast<int>(rows), one = 1;
  const int count = std::min(m, n);
  std::vector<double> values(static_cast<std::size_t>(count));
  if (count == 0) return values;
  std::vector<int> integers(8 * values.size());
  double unused = 0.0, wanted = 0.0;
  int size = -1, info = 0;
  dgesdd_("N", &m, &n, copy.data(), &m, values.data(), &unused, &one, &unused, &one, &wanted, &size,
          integers.data(), &info);
  size = static_cast<int>(wanted);
  std::vector<double> work(static_cast<std::size_t>(std::max(size, 1)));
  dgesdd_("N", &m, &n, copy.data(), &m, values.data(), &unused, &one, &unused, &one, work.data(),
          &size, integers.data(), &info);
  if (info != 0 || !std::isfinite(values.front()))
    throw Error("singular values: LAPACK found none (is there a value that is not finite?)");
  return values;
}

double effective_rank(std::span<const double> values) {
  double sum = 0.0, entropy = 0.0;
  for (const double value : values) sum += value;
  if (!(sum > 0.0)) return 0.0;
  for (const double value : values)
    if (value > 0.0) entropy -= value / sum * std::log(value / sum);
  return std::exp(entropy);
}

}  // namespace polymoe
