// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace polymoe {

/// The singular values of a matrix [rows, columns], the largest first, by LAPACK in double.
/// Throws Error where it does not converge (a value that is not finite).
std::vector<double> singular_values(std::span<const float> matrix, std::int64_t rows,
                                    std::int64_t columns);

/// exp of the entropy of the singular values divided by their sum: the number of directions that a
/// matrix uses. 0 for a matrix of zeros. Source: Roy & Vetterli, EUSIPCO 2007.
double effective_rank(std::span<const double> singular_values);

}  // namespace polymoe
