// SPDX-License-Identifier: Apache-2.0
// The memory-bound kernels on a GPU: time, the bytes that each has to move, and the share of the
// copy bandwidth measured in the same run.
#include <cstdio>
#include <exception>
#include <string>

#include "cuda/device_timing.h"
#include "kernels/poly_norm.h"
#include "runtime/arena.h"
#include "runtime/cuda/cuda_device.h"

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

std::string title(const char* operation, const Shape& shape, DType dtype) {
  return std::string(operation) + " " + to_string(shape) + " " + name_of(dtype);
}

void poly_norm(Bench& bench, const Shape& shape, DType dtype, const PolyNorm& norm) {
  const OwnedTensor x = normal_values(shape, dtype, 1.0, bench.stream),
                    d_y = normal_values(shape, dtype, 1.0, bench.stream),
                    a = normal_values({norm.order + 1}, DType::f32, 1.0, bench.stream);
  const OwnedTensor out(shape, dtype, gpu), d_a(a->shape(), DType::f32, gpu);
  const auto bytes = static_cast<double>(x->bytes());
  const std::string order = " order " + std::to_string(norm.order);
  bench.row(title("poly_norm_forward", shape, dtype) + order, 2.0 * bytes,
            [&] { poly_norm_forward(norm, *x, *a, *out, bench.stream); });
  bench.row(title("poly_norm_backward", shape, dtype) + order, 3.0 * bytes, [&] {
    poly_norm_backward(norm, *d_y, *x, *a, *out, *d_a, bench.scratch, bench.stream);
  });
}

int run() {
  if (cuda::device_count() == 0) {
    std::fprintf(stderr, "%s\n", cuda::unavailable_reason().c_str());
    return 1;
  }
  Bench bench;
  std::printf("%s, device copy %.2f TB/s\n", cuda::describe_device(0).c_str(),
              bench.copy_bandwidth * 1e-12);
  for (const Shape& shape : {Shape{131072, 1536}, Shape{16384, 8256}}) {
    poly_norm(bench, shape, DType::bf16, {});
  }
  for (const std::int64_t width : {1024, 2048, 4096, 5504, 12288, 16384}) {
    poly_norm(bench, {(std::int64_t{1} << 27) / width, width}, DType::bf16, {});
  }
  poly_norm(bench, {131072, 1536}, DType::bf16, {.order = 4, .rectified = true});
  poly_norm(bench, {65536, 1536}, DType::f32, {});
  return 0;
}

}  // namespace
}  // namespace polymoe::benchmarks

int main() {
  try {
    return polymoe::benchmarks::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
