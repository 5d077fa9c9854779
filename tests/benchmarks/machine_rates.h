// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polymoe::benchmarks {

/// Operations per second of an f32 matrix product 2048^3 with all threads, measured on first use:
/// what "share of the matrix-product rate" refers to.
double matrix_product_rate();

/// Bytes per second, reads and writes counted, of a copy of 256 MiB with all threads, measured on
/// first use: what "share of the copy bandwidth" refers to.
double copy_bandwidth();

}  // namespace polymoe::benchmarks
