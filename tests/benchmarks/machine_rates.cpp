// SPDX-License-Identifier: Apache-2.0
#include "machine_rates.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "kernels/matmul.h"
#include "kernels/reduction.h"
#include "runtime/buffer.h"

namespace polymoe::benchmarks {
namespace {

// The best of several runs, after one to warm up.
template <class Operation>
double best_seconds(int runs, Operation&& operation) {
  operation();
  double best = 1e300;
  for (int run = 0; run < runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    operation();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count());
  }
  return best;
}

}  // namespace

double matrix_product_rate() {
  static const double rate = [] {
    constexpr std::int64_t n = 1024;
    Stream stream(Device::cpu());
    const OwnedTensor a({n, n}, DType::f32, Device::cpu()), b({n, n}, DType::f32, Device::cpu());
    OwnedTensor c({n, n}, DType::f32, Device::cpu());
    fill(0.5, *a, stream);
    fill(0.25, *b, stream);
    return 2.0 * n * n * n / best_seconds(10, [&] {
             matmul(*a, Transpose::no, *b, Transpose::no, Write::overwrite, *c, stream);
           });
  }();
  return rate;
}

double copy_bandwidth() {
  static const double bandwidth = [] {
    constexpr std::int64_t bytes = std::int64_t{256} << 20, block = std::int64_t{1} << 20;
    const OwnedTensor from({bytes}, DType::u8, Device::cpu());
    OwnedTensor to({bytes}, DType::u8, Device::cpu());
    const auto* source = from->data<std::uint8_t>();
    auto* target = to->data<std::uint8_t>();
    std::memset(from->raw(), 1, static_cast<std::size_t>(bytes));
    return 2.0 * static_cast<double>(bytes) / best_seconds(5, [&] {
#pragma omp parallel for schedule(static)
             for (std::int64_t i = 0; i < bytes; i += block) {
               std::memcpy(target + i, source + i, static_cast<std::size_t>(block));
             }
           });
  }();
  return bandwidth;
}

}  // namespace polymoe::benchmarks
