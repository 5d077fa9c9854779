// SPDX-License-Identifier: Apache-2.0
// The memory-bound kernels on a GPU: time, the bytes that each has to move, and the share of the
// copy bandwidth measured in the same run.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda/device_timing.h"
#include "kernels/activation/activation.h"
#include "kernels/activation/poly_norm.h"
#include "kernels/adamw/adamw.h"
#include "kernels/convert/convert.h"
#include "kernels/embedding/embedding.h"
#include "kernels/reduction/reduction.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rotary/norm_rotary.h"
#include "kernels/rotary/rotary.h"
#include "runtime/arena.h"
#include "runtime/copy.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/random.h"

namespace polymoe::benchmarks {
namespace {

constexpr Device gpu{DeviceType::cuda, 0};

struct Bench {
  Stream stream{gpu};
  Arena scratch{{.device = gpu, .capacity = std::size_t{1} << 30}};
  double copy_bandwidth = device_copy_bandwidth(stream);

  void row(const std::string& name, double bytes, const std::function<void()>& work) {
    print_share(name.c_str(), median_seconds(stream, work), bytes, copy_bandwidth);
  }
};

std::string title(const std::string& operation, const Shape& shape, DType dtype) {
  return std::string(operation) + " " + to_string(shape) + " " + name_of(dtype);
}

// As the feed-forward runs it: rows have weights, whose gradients are wanted, and the activated
// rows come with the gradients.
void activation(Bench& bench, const Shape& shape, DType dtype, const Activation& chosen) {
  const Shape pre{shape[0], pre_activation_factor(chosen.kind) * shape[1]};
  const OwnedTensor x = normal_values(pre, dtype, 1.0, bench.stream),
                    d_y = normal_values(shape, dtype, 1.0, bench.stream),
                    weights = normal_values({shape[0]}, DType::f32, 1.0, bench.stream),
                    a = normal_values({1, coefficient_count(chosen)}, DType::f32, 1.0,
                                      bench.stream);
  const OwnedTensor y(shape, dtype, gpu), d_x(pre, dtype, gpu), d_a(a->shape(), DType::f32, gpu),
      d_weights({shape[0]}, DType::f32, gpu);
  const std::vector<std::int64_t> all = {0, shape[0]};
  const auto in = static_cast<double>(x->bytes()), out = static_cast<double>(y->bytes());
  const std::string name =
      std::string(name_of(chosen.kind)) +
      (coefficient_count(chosen) > 1 ? " order " + std::to_string(chosen.order) : "");
  bench.row(title((name + " forward").c_str(), shape, dtype), in + out,
            [&] { activation_forward(chosen, *x, *a, all, *weights, *y, bench.stream); });
  bench.row(title((name + " backward").c_str(), shape, dtype), 2.0 * (in + out), [&] {
    activation_backward(chosen, *d_y, *x, *a, all, *weights, {*d_x, *d_a, *y, *d_weights},
                        bench.scratch, bench.stream);
  });
}

// Alone, without weights: what the peers in tests/benchmarks/peers do.
void poly_norm_alone(Bench& bench, const Shape& shape) {
  const OwnedTensor x = normal_values(shape, DType::bf16, 1.0, bench.stream),
                    d_y = normal_values(shape, DType::bf16, 1.0, bench.stream),
                    a = normal_values({4}, DType::f32, 1.0, bench.stream);
  const OwnedTensor out(shape, DType::bf16, gpu), d_a(a->shape(), DType::f32, gpu);
  const auto bytes = static_cast<double>(x->bytes());
  bench.row(title("poly_norm_forward alone", shape, DType::bf16), 2.0 * bytes,
            [&] { poly_norm_forward({}, *x, *a, *out, bench.stream); });
  bench.row(title("poly_norm_backward alone", shape, DType::bf16), 3.0 * bytes,
            [&] { poly_norm_backward({}, *d_y, *x, *a, *out, *d_a, bench.scratch, bench.stream); });
}

void rms_norm(Bench& bench, const Shape& shape) {
  const OwnedTensor x = normal_values(shape, DType::bf16, 1.0, bench.stream),
                    d_y = normal_values(shape, DType::bf16, 1.0, bench.stream),
                    w = normal_values({shape[1]}, DType::bf16, 1.0, bench.stream);
  const OwnedTensor y(shape, DType::bf16, gpu), sum(shape, DType::bf16, gpu),
      inv_rms({shape[0]}, DType::f32, gpu), d_w({shape[1]}, DType::f32, gpu);
  const auto bytes = static_cast<double>(x->bytes());
  bench.row(title("rms_norm_forward", shape, DType::bf16), 2.0 * bytes,
            [&] { rms_norm_forward(*x, *w, 1e-5, *y, *inv_rms, bench.stream); });
  bench.row(title("add_rms_norm_forward", shape, DType::bf16), 4.0 * bytes,
            [&] { add_rms_norm_forward(*x, *d_y, *w, 1e-5, *sum, *y, *inv_rms, bench.stream); });
  bench.row(title("rms_norm_backward", shape, DType::bf16), 3.0 * bytes, [&] {
    rms_norm_backward(*d_y, *x, *inv_rms, *w, Write::overwrite, *y, *d_w, bench.scratch,
                      bench.stream);
  });
}

void norm_rotary(Bench& bench, const Shape& shape) {
  const RotaryPositions positions{.sequence_length = 4096};
  const std::int64_t width = shape[1] * shape[2];
  const OwnedTensor x = normal_values(shape, DType::bf16, 1.0, bench.stream),
                    d_y = normal_values(shape, DType::bf16, 1.0, bench.stream),
                    w = normal_values({width}, DType::bf16, 1.0, bench.stream);
  const OwnedTensor y(shape, DType::bf16, gpu), inv_rms({shape[0]}, DType::f32, gpu),
      d_w({width}, DType::f32, gpu);
  const auto bytes = static_cast<double>(x->bytes());
  bench.row(title("norm_rotary_forward", shape, DType::bf16), 2.0 * bytes,
            [&] { norm_rotary_forward(positions, *x, *w, 1e-5, *y, *inv_rms, bench.stream); });
  bench.row(title("norm_rotary_backward", shape, DType::bf16), 3.0 * bytes, [&] {
    norm_rotary_backward(positions, *d_y, *x, *inv_rms, *w, *y, *d_w, bench.scratch, bench.stream);
  });
}

void elements(Bench& bench) {
  const Shape shape{65536, 16, 128};
  const OwnedTensor x = normal_values(shape, DType::bf16, 1.0, bench.stream);
  bench.row(title("rotary_forward", shape, DType::bf16), 2.0 * static_cast<double>(x->bytes()),
            [&] { rotary_forward({.sequence_length = 4096}, *x, bench.stream); });

  const Shape flat{std::int64_t{1} << 28};
  const OwnedTensor p = normal_values(flat, DType::f32, 1.0, bench.stream),
                    g = normal_values(flat, DType::bf16, 1.0, bench.stream);
  const OwnedTensor wide(flat, DType::f32, gpu), copy16(flat, DType::bf16, gpu),
      low(flat, DType::u16, gpu), total({1}, DType::f64, gpu);
  const auto n = static_cast<double>(flat[0]);
  for (const DType kept : {DType::f32, DType::bf16}) {
    std::array<OwnedTensor, optimizer_state_kinds.size()> owned;
    OptimizerState state;
    for (std::size_t i = 0; i < state.size(); ++i) {
      owned[i] = OwnedTensor(flat, kept, gpu);
      state[i] = *owned[i];
    }
    const double bytes = 10.0 + 2.0 * static_cast<double>(state.size() * size_of(kept));
    for (const bool split : {false, true}) {
      bench.row(title(std::string("adamw, ") + name_of(kept) + " moments" +
                          (split ? ", split parameter," : ","),
                      flat, DType::bf16),
                bytes * n, [&] {
                  adamw({.learning_rate = 1e-4}, *g, split ? *copy16 : *p, state,
                        split ? *low : Tensor(), bench.stream);
                });
    }
  }
  bench.row(title("convert, f32 to", flat, DType::bf16), 6.0 * n,
            [&] { convert(*p, *copy16, bench.stream); });
  bench.row(title("convert, bf16 to", flat, DType::f32), 6.0 * n,
            [&] { convert(*g, *wide, bench.stream); });
  bench.row(title("sum_of_squares", flat, DType::f32), 4.0 * n,
            [&] { sum_of_squares(*p, *total, bench.scratch, bench.stream); });
  bench.row(title("sum_of_squares", flat, DType::bf16), 2.0 * n,
            [&] { sum_of_squares(*g, *total, bench.scratch, bench.stream); });
  bench.row(title("add", flat, DType::bf16), 6.0 * n, [&] { add(*g, *copy16, bench.stream); });
  bench.row(title("fill", flat, DType::f32), 4.0 * n, [&] { fill(0.5, *wide, bench.stream); });
}

// Token ids as uneven as those of text: id i about as often as 1 / (i + 1).
void embedding(Bench& bench) {
  constexpr std::int64_t rows = 32768, vocab = 50304, width = 2048;
  OwnedTensor ids({rows}, DType::i32, Device::cpu());
  const RandomStream random(1, "tokens");
  for (std::int64_t i = 0; i < rows; ++i) {
    const double u = random.uniform(static_cast<std::uint64_t>(i));
    ids->data<std::int32_t>()[i] = static_cast<std::int32_t>(std::pow(vocab, u)) - 1;
  }
  const OwnedTensor tokens({rows}, DType::i32, gpu), y({rows, width}, DType::bf16, gpu),
      table = normal_values({vocab, width}, DType::bf16, 1.0, bench.stream),
      d_y = normal_values({rows, width}, DType::bf16, 1.0, bench.stream),
      d_table({vocab, width}, DType::f32, gpu);
  copy(*ids, *tokens, bench.stream);
  const auto bytes = static_cast<double>(y->bytes());
  bench.row(title("embedding_forward", y->shape(), DType::bf16), 2.0 * bytes,
            [&] { embedding_forward(*tokens, *table, *y, bench.stream); });
  // The table's rows that occur are read and written in f32.
  std::vector<bool> occurs(vocab, false);
  for (std::int64_t i = 0; i < rows; ++i) {
    occurs[static_cast<std::size_t>(ids->data<std::int32_t>()[i])] = true;
  }
  const auto table_rows = static_cast<double>(std::count(occurs.begin(), occurs.end(), true));
  bench.row(title("embedding_backward", y->shape(), DType::bf16), bytes + 8.0 * width * table_rows,
            [&] { embedding_backward(*tokens, *d_y, *d_table, bench.scratch, bench.stream); });
}

void run() {
  Bench bench;
  std::printf("%s, device copy %.2f TB/s\n", cuda::describe_device(0).c_str(),
              bench.copy_bandwidth * 1e-12);
  const Activation poly_norm{.kind = ActivationKind::polynorm};
  for (const Shape& shape : {Shape{131072, 1536}, Shape{16384, 8256}}) {
    activation(bench, shape, DType::bf16, poly_norm);
    poly_norm_alone(bench, shape);
  }
  for (const std::int64_t width : {1024, 2048, 4096, 5504, 12288, 16384}) {
    activation(bench, {(std::int64_t{1} << 27) / width, width}, DType::bf16, poly_norm);
  }
  activation(bench, {131072, 1536}, DType::bf16, {ActivationKind::polyrelunorm, 4, 1e-6});
  activation(bench, {65536, 1536}, DType::f32, poly_norm);
  for (const ActivationKind kind : {ActivationKind::relu, ActivationKind::gelu,
                                    ActivationKind::polyrelu, ActivationKind::swiglu}) {
    activation(bench, {131072, 1536}, DType::bf16, {.kind = kind});
  }
  rms_norm(bench, {65536, 2048});
  for (const Shape& shape : {Shape{16384, 16, 128}, Shape{65536, 16, 128}, Shape{16384, 4, 128}}) {
    norm_rotary(bench, shape);
  }
  elements(bench);
  embedding(bench);
}

}  // namespace
}  // namespace polymoe::benchmarks

int main() { return polymoe::benchmarks::run_on_gpu(polymoe::benchmarks::run); }
