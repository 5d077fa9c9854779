// SPDX-License-Identifier: Apache-2.0
// Output projection and cross-entropy on a GPU, against its three products run on their own in the
// same chunks: what the losses, the gradients of the logits and the chunks cost beyond them.
#include "kernels/output_loss/output_loss.h"

#include <cstdio>
#include <string>

#include "cuda/device_timing.h"
#include "kernels/matmul/matmul.h"
#include "runtime/arena.h"
#include "runtime/copy.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/random.h"

namespace polymoe::benchmarks {
namespace {

constexpr Device gpu{DeviceType::cuda, 0};
constexpr std::int64_t rows = 16384, hidden = 2048, chunk_rows = 4096;

void print_line(const std::string& name, double seconds, double operations, double floor) {
  std::printf("%-52s %9.4f ms %8.1f TFLOP/s", name.c_str(), seconds * 1e3,
              operations / seconds * 1e-12);
  if (floor > 0.0) std::printf(" %5.1f %% of its products' rate", 100.0 * floor / seconds);
  std::printf("\n");
  std::fflush(stdout);
}

OwnedTensor random_targets(std::int64_t vocab, Stream& stream) {
  const RandomStream random(1, "targets");
  const OwnedTensor host({rows}, DType::i32, Device::cpu());
  for (std::int64_t i = 0; i < rows; ++i) {
    host->data<std::int32_t>()[i] = static_cast<std::int32_t>(
        random.uniform(static_cast<std::uint64_t>(i)) * static_cast<double>(vocab));
  }
  OwnedTensor targets({rows}, DType::i32, gpu);
  copy(*host, *targets, stream);
  stream.synchronize();
  return targets;
}

void output_loss(Stream& stream, std::int64_t vocab, double copy_bandwidth) {
  const OwnedTensor x = normal_values({rows, hidden}, DType::bf16, 1.0, stream),
                    weight = normal_values({vocab, hidden}, DType::bf16, 0.02, stream),
                    targets = random_targets(vocab, stream);
  const OwnedTensor d_x({rows, hidden}, DType::bf16, gpu), token_loss({rows}, DType::f32, gpu),
      d_weight({vocab, hidden}, DType::f32, gpu);
  const double product =
      2.0 * static_cast<double>(rows) * static_cast<double>(vocab) * static_cast<double>(hidden);
  const std::string size =
      " " + std::to_string(rows) + " x " + std::to_string(hidden) + " x " + std::to_string(vocab);
  double logits_product = 0.0, products = 0.0;
  {
    const OwnedTensor logits({chunk_rows, vocab}, DType::f32, gpu),
        d_logits = normal_values({chunk_rows, vocab}, DType::bf16, 1e-4, stream);
    const auto whole = [&](const char* name, const std::function<void(const Tensor&)>& work) {
      const double seconds = static_cast<double>(rows) / chunk_rows *
                             median_seconds(stream, [&] { work(x->rows(0, chunk_rows)); });
      print_line(name, seconds, product, 0.0);
      products += seconds;
      return seconds;
    };
    logits_product = whole("logits = x weight^T, f32", [&](const Tensor& x_rows) {
      matmul(x_rows, Transpose::no, *weight, Transpose::yes, Write::overwrite, *logits, stream);
    });
    whole("d_weight += d_logits^T x, f32", [&](const Tensor& x_rows) {
      matmul(*d_logits, Transpose::yes, x_rows, Transpose::no, Write::accumulate, *d_weight,
             stream);
    });
    whole("d_x = d_logits weight", [&](const Tensor&) {
      matmul(*d_logits, Transpose::no, *weight, Transpose::no, Write::overwrite,
             d_x->rows(0, chunk_rows), stream);
    });
  }
  Arena scratch({.device = gpu, .capacity = std::size_t{3} << 29});
  const double forward = median_seconds(
      stream, [&] { output_loss_forward(*x, *weight, *targets, *token_loss, scratch, stream); });
  print_line("output_loss_forward" + size, forward, product, logits_product);
  const double both = median_seconds(stream, [&] {
    output_loss_forward_backward(*x, *weight, *targets, 1.0 / rows, *token_loss, *d_x, *d_weight,
                                 scratch, stream);
  });
  print_line("output_loss_forward_backward" + size, both, 3.0 * product, products);
  // Beside the products: f32 logits read once, bf16 gradients written once.
  print_share("  what is not its products", both - products,
              6.0 * static_cast<double>(rows) * static_cast<double>(vocab), copy_bandwidth);
}

void run() {
  Stream stream(gpu);
  const double copy_bandwidth = device_copy_bandwidth(stream);
  std::printf("%s, device copy %.2f TB/s\n", cuda::describe_device(0).c_str(),
              copy_bandwidth * 1e-12);
  for (const std::int64_t vocab : {50304, 32000}) output_loss(stream, vocab, copy_bandwidth);
}

}  // namespace
}  // namespace polymoe::benchmarks

int main() { return polymoe::benchmarks::run_on_gpu(polymoe::benchmarks::run); }
