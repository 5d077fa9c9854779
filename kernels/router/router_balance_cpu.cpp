// SPDX-License-Identifier: Apache-2.0
#include "kernels/router/router_balance_backends.h"

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>

#include "kernels/backend.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/router/router_balance.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe::detail {

void router_losses(CpuBackend, const RouterLossInputs& inputs, Tensor losses,
                   Tensor balance_gradient, Stream&) {
  cpu::with_real(balance_gradient.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t segments = balance_gradient.dim(0), experts = balance_gradient.dim(1);
    const auto* counts = inputs.counts.data<std::int64_t>();
    const auto* probability_sums = inputs.probability_sums.data<double>();
    T* gradient = balance_gradient.data<T>();
    double balance = 0.0;
    for (std::int64_t s = 0; s < segments; ++s) {
      const std::int64_t slots =
          std::accumulate(counts + s * experts, counts + (s + 1) * experts, std::int64_t{0});
      // d loss / d probability_sums_e = scale * counts_e.
      const double scale = slots == 0
                               ? 0.0
                               : inputs.balance_scale * static_cast<double>(experts) *
                                     static_cast<double>(inputs.top_k) /
                                     (static_cast<double>(slots) * static_cast<double>(slots));
      for (std::int64_t i = s * experts; i < (s + 1) * experts; ++i) {
        const double slope = scale * static_cast<double>(counts[i]);
        balance += slope * probability_sums[i];
        gradient[i] = static_cast<T>(slope);
      }
    }
    const T* lse = inputs.log_sum_exp.data<T>();
    double squares = 0.0;
    for (std::int64_t t = 0; t < inputs.log_sum_exp.dim(0); ++t) {
      squares += static_cast<double>(lse[t]) * static_cast<double>(lse[t]);
    }
    losses.data<double>()[0] += balance;
    losses.data<double>()[1] += inputs.z_scale * squares;
  });
}

void count_slots(CpuBackend, const Tensor& segment_counts, const Tensor& kept_counts, Tensor totals,
                 Stream&) {
  const std::int64_t segments = segment_counts.dim(0), experts = segment_counts.dim(1);
  const auto* routed = segment_counts.data<std::int64_t>();
  const auto* kept = kept_counts.data<std::int64_t>();
  auto* total = totals.data<std::int64_t>();
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::int64_t s = 0; s < segments; ++s) {
      total[e] += routed[s * experts + e];
      total[experts] += routed[s * experts + e];
    }
    total[experts] -= kept[e];
  }
}

void move_router_bias(CpuBackend, std::span<const std::int64_t> counts, double rate, Tensor bias,
                      Stream&) {
  const std::int64_t total = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  const auto experts = static_cast<std::int64_t>(counts.size());
  auto* values = bias.data<float>();
  for (std::int64_t e = 0; e < experts; ++e) {
    // In whole numbers: an expert exactly at the mean stays where it is.
    const std::int64_t load = counts[static_cast<std::size_t>(e)] * experts;
    if (load != total) values[e] += static_cast<float>(load < total ? rate : -rate);
  }
}

}  // namespace polymoe::detail
