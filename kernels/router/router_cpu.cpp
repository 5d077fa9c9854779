// SPDX-License-Identifier: Apache-2.0
#include "kernels/router/router_backends.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/backend.h"
#include "kernels/cpu/real_dtype.h"
#include "kernels/documents.h"
#include "kernels/router/router.h"
#include "runtime/rounding.h"
#include "runtime/stream.h"

namespace polymoe::detail {
namespace {

constexpr std::int64_t chunk_tokens = 64;

// 1 / sum, finite for a sum that underflowed.
template <class T>
T reciprocal(T sum) {
  return T{1} / std::max(sum, std::numeric_limits<T>::min());
}

template <class T>
T sum_of(const T* values, std::int64_t count) {
  T sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

// Writes the scores of one token, returns log(sum(exp(logits))).
template <class T>
T score_row(RouterScores kind, std::int64_t experts, const T* logits, T* scores) {
  const T largest = *std::max_element(logits, logits + experts);
  for (std::int64_t e = 0; e < experts; ++e) scores[e] = std::exp(logits[e] - largest);
  const T sum = sum_of(scores, experts);
  if (kind == RouterScores::softmax) {
    const T scale = T{1} / sum;
    for (std::int64_t e = 0; e < experts; ++e) scores[e] *= scale;
  } else {
    for (std::int64_t e = 0; e < experts; ++e) scores[e] = T{1} / (T{1} + std::exp(-logits[e]));
  }
  return largest + std::log(sum);
}

// Ids of the top_k largest scores + bias, descending; equal ones by ascending id. The first top_k
// experts start the list, so that NaN cannot leave a place empty.
template <class T>
void choose_experts(const RouterShape& shape, const T* scores, const float* bias,
                    std::int32_t* ids) {
  const auto key = [&](std::int64_t e) {
    return bias == nullptr ? scores[e] : scores[e] + static_cast<T>(bias[e]);
  };
  const std::int64_t k = shape.top_k;
  for (std::int64_t e = 0; e < shape.experts; ++e) {
    const T candidate = key(e);
    std::int64_t place = std::min(e, k);
    if (place == k) {
      if (!(candidate > key(ids[k - 1]))) continue;
      --place;
    }
    for (; place > 0 && candidate > key(ids[place - 1]); --place) ids[place] = ids[place - 1];
    ids[place] = static_cast<std::int32_t>(e);
  }
}

template <class T>
void forward_token(const RouterShape& shape, std::int64_t token, const T* logits, const float* bias,
                   const RouterState& state, std::int64_t* counts, double* probability_sums) {
  const std::int64_t experts = shape.experts, k = shape.top_k;
  T* scores = state.scores.data<T>() + token * experts;
  std::int32_t* ids = state.expert_ids.data<std::int32_t>() + token * k;
  T* weights = state.weights.data<T>() + token * k;
  if (shape.document_starts.defined() &&
      shape.document_starts.data<std::int32_t>()[token] == no_document) {
    std::fill_n(scores, experts, T{0});
    std::fill_n(ids, k, -1);
    std::fill_n(weights, k, T{0});
    state.log_sum_exp.data<T>()[token] = 0;
    return;
  }
  state.log_sum_exp.data<T>()[token] =
      score_row(shape.rule.scores, experts, logits + token * experts, scores);
  choose_experts(shape, scores, bias, ids);
  for (std::int64_t j = 0; j < k; ++j) {
    weights[j] = scores[ids[j]];
    ++counts[ids[j]];
  }
  if (shape.rule.normalize) {
    const T scale = reciprocal(sum_of(weights, k));
    for (std::int64_t j = 0; j < k; ++j) weights[j] *= scale;
  }
  const T scale =
      shape.rule.scores == RouterScores::softmax ? T{1} : reciprocal(sum_of(scores, experts));
  for (std::int64_t e = 0; e < experts; ++e) {
    probability_sums[e] += static_cast<double>(scores[e] * scale);
  }
}

template <class T>
void forward(const RouterShape& shape, const T* logits, const float* bias, const RouterState& state,
             const RouterPartials& partials) {
  const std::int64_t experts = shape.experts, chunks = router_chunks(shape);
  auto* chunk_counts = partials.counts.data<std::int64_t>();
  auto* chunk_sums = partials.probability_sums.data<double>();
#pragma omp parallel for schedule(static)
  for (std::int64_t c = 0; c < shape.segments * chunks; ++c) {
    const std::int64_t segment = c / chunks, begin = c % chunks * chunk_tokens;
    const std::int64_t end = std::min(begin + chunk_tokens, shape.segment_tokens);
    std::fill_n(chunk_counts + c * experts, experts, std::int64_t{0});
    std::fill_n(chunk_sums + c * experts, experts, 0.0);
    for (std::int64_t t = begin; t < end; ++t) {
      forward_token(shape, segment * shape.segment_tokens + t, logits, bias, state,
                    chunk_counts + c * experts, chunk_sums + c * experts);
    }
  }
  auto* counts = state.segment_counts.data<std::int64_t>();
  auto* sums = state.segment_probability_sums.data<double>();
  std::fill_n(counts, shape.segments * experts, std::int64_t{0});
  std::fill_n(sums, shape.segments * experts, 0.0);
  for (std::int64_t c = 0; c < shape.segments * chunks; ++c) {
    const std::int64_t segment = c / chunks;
    for (std::int64_t e = 0; e < experts; ++e) {
      counts[segment * experts + e] += chunk_counts[c * experts + e];
      sums[segment * experts + e] += chunk_sums[c * experts + e];
    }
  }
}

// What one token's backward pass reads; rows of its token or segment.
template <class T>
struct TokenGradients {
  const T* logits;            // null unless sigmoid scores meet a z loss
  const T* d_weights;         // [top_k]
  const T* balance_gradient;  // [experts] of its segment, or null
  T z_scale;
};

// d_logits of one token. Where logits are read, each is read before its own place is written, so
// that d_logits may alias them.
template <class T>
void backward_token(const RouterShape& shape, std::int64_t token, const RouterState& state,
                    const TokenGradients<T>& in, T* d_logits) {
  const std::int64_t experts = shape.experts, k = shape.top_k;
  const T* scores = state.scores.data<T>() + token * experts;
  const std::int32_t* ids = state.expert_ids.data<std::int32_t>() + token * k;
  const T* weights = state.weights.data<T>() + token * k;
  if (ids[0] < 0) {
    std::fill_n(d_logits, experts, T{0});
    return;
  }
  const T lse = state.log_sum_exp.data<T>()[token];
  const bool softmax = shape.rule.scores == RouterScores::softmax;
  const T d_lse = T{2} * in.z_scale * lse;

  // d_chosen[j] = (d_weights[j] - shift) * scale, by the quotient rule where normalised.
  T shift = 0, scale = 1;
  if (shape.rule.normalize) {
    T chosen = 0;
    for (std::int64_t j = 0; j < k; ++j) {
      chosen += scores[ids[j]];
      shift += in.d_weights[j] * weights[j];
    }
    scale = reciprocal(chosen);
  }
  // Likewise for the probabilities: balance_gradient shifted and scaled.
  T balance_shift = 0, balance_scale = 1;
  if (in.balance_gradient != nullptr && !softmax) {
    balance_scale = reciprocal(sum_of(scores, experts));
    for (std::int64_t e = 0; e < experts; ++e) {
      balance_shift += in.balance_gradient[e] * scores[e] * balance_scale;
    }
  }
  const auto d_score_of_balance = [&](std::int64_t e) {
    return in.balance_gradient == nullptr
               ? T{0}
               : (in.balance_gradient[e] - balance_shift) * balance_scale;
  };

  if (softmax) {
    for (std::int64_t e = 0; e < experts; ++e) d_logits[e] = d_score_of_balance(e);
    for (std::int64_t j = 0; j < k; ++j) d_logits[ids[j]] += (in.d_weights[j] - shift) * scale;
    T mean = 0;
    for (std::int64_t e = 0; e < experts; ++e) mean += scores[e] * d_logits[e];
    for (std::int64_t e = 0; e < experts; ++e) {
      d_logits[e] = scores[e] * (d_logits[e] - mean + d_lse);
    }
    return;
  }
  for (std::int64_t e = 0; e < experts; ++e) {
    const T of_z = in.logits == nullptr ? T{0} : d_lse * std::exp(in.logits[e] - lse);
    d_logits[e] = d_score_of_balance(e) * scores[e] * (T{1} - scores[e]) + of_z;
  }
  for (std::int64_t j = 0; j < k; ++j) {
    const T score = scores[ids[j]];
    d_logits[ids[j]] += (in.d_weights[j] - shift) * scale * score * (T{1} - score);
  }
}

}  // namespace

std::int64_t router_chunks(const RouterShape& shape) {
  return divide_up(shape.segment_tokens, chunk_tokens);
}

void router_forward(CpuBackend, const RouterShape& shape, const Tensor& logits, const Tensor& bias,
                    RouterState& state, const RouterPartials& partials, Stream&) {
  cpu::with_real(logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    forward<T>(shape, logits.data<T>(), bias.defined() ? bias.data<float>() : nullptr, state,
               partials);
  });
}

void router_backward(CpuBackend, const RouterShape& shape, const Tensor& logits,
                     const RouterState& state, const Tensor& d_weights,
                     const Tensor& balance_gradient, double z_scale, Tensor d_logits, Stream&) {
  cpu::with_real(d_logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const bool use_logits = shape.rule.scores == RouterScores::sigmoid && z_scale != 0.0;
#pragma omp parallel for schedule(static)
    for (std::int64_t t = 0; t < shape.tokens; ++t) {
      const TokenGradients<T> in{
          use_logits ? logits.data<T>() + t * shape.experts : nullptr,
          d_weights.data<T>() + t * shape.top_k,
          balance_gradient.defined()
              ? balance_gradient.data<T>() + t / shape.segment_tokens * shape.experts
              : nullptr,
          static_cast<T>(z_scale)};
      backward_token<T>(shape, t, state, in, d_logits.data<T>() + t * shape.experts);
    }
  });
}

}  // namespace polymoe::detail
