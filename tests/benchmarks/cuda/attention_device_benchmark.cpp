// SPDX-License-Identifier: Apache-2.0
// Attention on a GPU: time and operations per second, the causal half of the square counted: two
// products of it forward, five backward. The floor is the time of one dense bf16 product of as many
// operations at the rate measured in the same run.
#include <cstdint>
#include <cstdio>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cuda/device_timing.h"
#include "kernels/attention/attention.h"
#include "kernels/matmul/matmul.h"
#include "runtime/arena.h"
#include "runtime/buffer.h"
#include "runtime/copy.h"
#include "runtime/cuda/cuda_device.h"

namespace polymoe::benchmarks {
namespace {

constexpr Device gpu{DeviceType::cuda, 0};

double product_rate(Stream& stream) {
  constexpr std::int64_t size = 8192;
  const OwnedTensor a = normal_values({size, size}, DType::bf16, 1.0, stream);
  const OwnedTensor b = normal_values({size, size}, DType::bf16, 1.0, stream);
  const OwnedTensor c({size, size}, DType::bf16, gpu);
  const double seconds = median_seconds(
      stream, [&] { matmul(*a, Transpose::no, *b, Transpose::yes, Write::overwrite, *c, stream); });
  return 2.0 * size * size * size / seconds;
}

void print_row(const std::string& name, double seconds, double operations, double rate) {
  std::printf("%-64s %9.4f ms %8.1f TFLOP/s, floor %9.4f ms\n", name.c_str(), seconds * 1e3,
              operations / seconds * 1e-12, operations / rate * 1e3);
  std::fflush(stdout);
}

// `document_tokens`: of each document, a divisor of the length; 0 = there are none.
void attention(const AttentionShape& s, DType dtype, double rate, Stream& stream,
               std::int64_t document_tokens = 0) {
  const Shape queries{s.batch * s.query_length, s.heads, s.head_dim};
  const Shape keys{s.batch * s.key_length, s.kv_heads, s.head_dim};
  const auto values = [&](const Shape& shape) { return normal_values(shape, dtype, 1.0, stream); };
  const OwnedTensor q = values(queries), k = values(keys), v = values(keys),
                    d_out = values(queries);
  const OwnedTensor out(queries, dtype, gpu), d_q(queries, dtype, gpu), d_k(keys, dtype, gpu),
      d_v(keys, dtype, gpu), rows({s.batch, s.heads, s.query_length}, DType::f32, gpu);
  Arena scratch({.device = gpu, .capacity = std::size_t{2} << 30});
  const std::string name =
      std::to_string(s.batch) + " x " + std::to_string(s.key_length) + ", " +
      std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " heads of " +
      std::to_string(s.head_dim) + " " + name_of(dtype) +
      (document_tokens > 0 ? ", documents of " + std::to_string(document_tokens) : "");
  const auto all = [](std::int64_t n) { return static_cast<double>(n); };
  // Pairs of a query and a key that it sees.
  const double hidden = 0.5 * all(s.query_length) * (all(s.query_length) - 1.0);
  const double of_sequence = document_tokens > 0
                                 ? 0.5 * all(s.query_length) * (all(document_tokens) + 1.0)
                                 : all(s.query_length) * all(s.key_length) - hidden;
  const double pairs = all(s.batch * s.heads) * of_sequence;
  const double product = 2.0 * pairs * all(s.head_dim);
  const double forward = median_seconds(
      stream, [&] { attention_forward(s, *q, *k, *v, *out, *rows, scratch, stream); });
  print_row("attention_forward " + name, forward, 2.0 * product, rate);
  if (s.query_length == 1) return;
  const double backward = median_seconds(stream, [&] {
    attention_backward(s, *d_out, *q, *k, *v, *out, *rows, *d_q, *d_k, *d_v, scratch, stream);
  });
  print_row("attention_backward " + name, backward, 5.0 * product, rate);
}

// Windows of 4096 of documents of so many tokens. Operations are those of pairs within a document.
void within_documents(std::int64_t tokens, double rate, Stream& stream) {
  constexpr std::int64_t batch = 8, length = 4096;
  std::vector<std::int32_t> starts(static_cast<std::size_t>(batch * length));
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const auto place = static_cast<std::int64_t>(i) % length;
    starts[i] = static_cast<std::int32_t>(place - place % tokens);
  }
  const OwnedTensor document_starts({batch * length}, DType::i32, gpu);
  set_values(std::span<const std::int32_t>(starts), *document_starts, stream);
  attention({batch, length, length, 16, 16, 128, *document_starts}, DType::bf16, rate, stream,
            tokens);
}

void run() {
  Stream stream(gpu);
  const double rate = product_rate(stream);
  std::printf("%s, bf16 product %.1f TFLOP/s\n", cuda::describe_device(0).c_str(), rate * 1e-12);
  attention({8, 4096, 4096, 16, 16, 128}, DType::bf16, rate, stream);
  attention({1, 4096, 4096, 16, 16, 128}, DType::bf16, rate, stream);
  attention({8, 4096, 4096, 16, 4, 128}, DType::bf16, rate, stream);
  attention({32, 1024, 1024, 16, 16, 64}, DType::bf16, rate, stream);
  for (const std::int64_t tokens : {4096, 2048, 512, 128}) within_documents(tokens, rate, stream);
  // The kernels beside cuDNN.
  attention({1, 4096, 4096, 16, 16, 128}, DType::f32, rate, stream);
  attention({1, 4096, 4096, 16, 16, 100}, DType::bf16, rate, stream);
  attention({1, 1, 4096, 16, 16, 128}, DType::bf16, rate, stream);
}

}  // namespace
}  // namespace polymoe::benchmarks

int main() { return polymoe::benchmarks::run_on_gpu(polymoe::benchmarks::run); }
