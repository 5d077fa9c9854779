// SPDX-License-Identifier: Apache-2.0
#include "kernels/output_loss/output_loss_backends.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/real_dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/output_loss/output_loss_cpu.cpp"
#include <hwy/foreach_target.h>
//
#include "kernels/cpu/softmax-inl.h"

HWY_BEFORE_NAMESPACE();
namespace polymoe::cpu::HWY_NAMESPACE {
namespace {

// Returns the loss; with `gradient`, logits become scale * (softmax(logits) - one_hot(target)).
template <class T>
T loss_of_row(T* logits, std::int64_t vocab, std::int64_t target, bool gradient, T scale) {
  const hn::ScalableTag<T> d;
  const T at_target = logits[target];
  const T maximum = maximum_of(logits, vocab);
  const T sum = exponentials(T{1}, maximum, logits, vocab);
  if (gradient) {
    const auto factor = hn::Set(d, scale / sum);
    for (std::int64_t i = 0; i < vocab; i += lanes(d)) {
      store(hn::Mul(load(d, logits + i, vocab - i), factor), d, logits + i, vocab - i);
    }
    logits[target] -= scale;
  }
  // In this order nothing is lost where the target is by far the likeliest.
  return std::log(sum) + (maximum - at_target);
}

POLYMOE_REAL_VERSIONS(row_loss, loss_of_row);

}  // namespace
}  // namespace polymoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace polymoe::cpu {
namespace {

POLYMOE_DISPATCH_REAL(row_loss)

void check_targets(const char* operation, const Tensor& targets, std::int64_t vocab) {
  const std::int32_t* ids = targets.data<std::int32_t>();
  for (std::int64_t row = 0; row < targets.elements(); ++row) {
    if (ids[row] < -1 || ids[row] >= vocab) {
      throw InvalidArgument(std::string(operation) + ": target " + std::to_string(ids[row]) +
                            " at position " + std::to_string(row) + " is not in [-1, " +
                            std::to_string(vocab) + ")");
    }
  }
}

// Pointers to the first row of all; without `gradient` the last three are not used.
template <class T>
struct OutputLoss {
  std::int64_t rows, chunk_rows, hidden, vocab;
  const T* x;
  const T* weight;
  const std::int32_t* targets;
  T* token_loss;
  T* logits;
  bool gradient;
  T scale;
  T* d_x;
  T* d_weight;
};

template <class T>
void chunk_rows(const OutputLoss<T>& a, std::int64_t first, std::int64_t rows) {
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    T* logits = a.logits + row * a.vocab;
    const std::int32_t target = a.targets[first + row];
    if (target >= 0) {
      a.token_loss[first + row] = row_loss<T>(logits, a.vocab, target, a.gradient, a.scale);
    } else {
      a.token_loss[first + row] = 0;
      std::fill_n(logits, a.vocab, T{0});
    }
  }
}

template <class T>
void run(const OutputLoss<T>& a) {
  for (std::int64_t first = 0; first < a.rows; first += a.chunk_rows) {
    const std::int64_t rows = std::min(a.chunk_rows, a.rows - first);
    const T* x = a.x + first * a.hidden;
    gemm(rows, a.vocab, a.hidden, T{1}, {x, a.hidden, false}, {a.weight, a.hidden, true}, T{0},
         a.logits, a.vocab);
    chunk_rows(a, first, rows);
    if (!a.gradient) continue;
    // The weights' gradient first: d_x may take the place of x.
    gemm(a.vocab, a.hidden, rows, T{1}, {a.logits, a.vocab, true}, {x, a.hidden, false}, T{1},
         a.d_weight, a.hidden);
    gemm(rows, a.hidden, a.vocab, T{1}, {a.logits, a.vocab, false}, {a.weight, a.hidden, false},
         T{0}, a.d_x + first * a.hidden, a.hidden);
  }
}

}  // namespace
}  // namespace polymoe::cpu

namespace polymoe::detail {

void output_loss_forward(CpuBackend, const Tensor& x, const Tensor& weight, const Tensor& targets,
                         Tensor token_loss, const OutputLossChunk& chunk, Stream&) {
  cpu::check_targets("output_loss_forward", targets, weight.dim(0));
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    cpu::run(cpu::OutputLoss<T>{x.dim(0), chunk.logits.dim(0), x.dim(1), weight.dim(0), x.data<T>(),
                                weight.data<T>(), targets.data<std::int32_t>(),
                                token_loss.data<T>(), chunk.logits.data<T>(), false, T{0}, nullptr,
                                nullptr});
  });
}

void output_loss_forward_backward(CpuBackend, const Tensor& x, const Tensor& weight,
                                  const Tensor& targets, double scale, Tensor token_loss,
                                  Tensor d_x, Tensor d_weight, const OutputLossChunk& chunk,
                                  Stream&) {
  cpu::check_targets("output_loss_forward_backward", targets, weight.dim(0));
  cpu::with_real(x.dtype(), [&]<class T>(T) {
    cpu::run(cpu::OutputLoss<T>{x.dim(0), chunk.logits.dim(0), x.dim(1), weight.dim(0), x.data<T>(),
                                weight.data<T>(), targets.data<std::int32_t>(),
                                token_loss.data<T>(), chunk.logits.data<T>(), true,
                                static_cast<T>(scale), d_x.data<T>(), d_weight.data<T>()});
  });
}

}  // namespace polymoe::detail
#endif
