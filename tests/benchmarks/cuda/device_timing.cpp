// SPDX-License-Identifier: Apache-2.0
#include "cuda/device_timing.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <vector>

#include "runtime/copy.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/random.h"

namespace polymoe::benchmarks {
namespace {

constexpr int warm_up = 5;
constexpr int repeats = 40;

class Event {
 public:
  Event() { cuda::check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

int run_on_gpu(const std::function<void()>& body) {
  try {
    if (cuda::device_count() == 0) {
      std::fprintf(stderr, "%s\n", cuda::unavailable_reason().c_str());
      return 1;
    }
    body();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

double median_seconds(Stream& stream, const std::function<void()>& work) {
  const auto native = static_cast<cudaStream_t>(stream.native());
  for (int i = 0; i < warm_up; ++i) work();
  const std::vector<Event> begin(repeats), end(repeats);
  for (std::size_t i = 0; i < repeats; ++i) {
    cuda::check(cudaEventRecord(begin[i].get(), native), "cudaEventRecord");
    work();
    cuda::check(cudaEventRecord(end[i].get(), native), "cudaEventRecord");
  }
  stream.synchronize();
  std::vector<double> seconds;
  for (std::size_t i = 0; i < repeats; ++i) {
    float milliseconds = 0.0F;
    cuda::check(cudaEventElapsedTime(&milliseconds, begin[i].get(), end[i].get()),
                "cudaEventElapsedTime");
    seconds.push_back(milliseconds * 1e-3);
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[repeats / 2];
}

double device_copy_bandwidth(Stream& stream) {
  constexpr std::size_t bytes = std::size_t{2} << 30;
  const Buffer from(bytes, stream.device()), to(bytes, stream.device());
  // Bytes that are not zeros; what is copied does not matter beyond that.
  cuda::fill_bytes(from.data(), 0x3d, bytes, stream.native());
  const double seconds =
      median_seconds(stream, [&] { cuda::copy(to.data(), from.data(), bytes, stream.native()); });
  return 2.0 * static_cast<double>(bytes) / seconds;
}

OwnedTensor normal_values(const Shape& shape, DType dtype, double deviation, Stream& stream) {
  constexpr std::int64_t block = std::int64_t{4} << 20;
  OwnedTensor result(shape, dtype, stream.device());
  const std::int64_t elements = shape.elements();
  OwnedTensor values({std::min(block, elements)}, dtype, Device::cpu());
  const RandomStream random(1, "benchmark");
  for (std::int64_t i = 0; i < values->elements(); ++i) {
    const auto value = static_cast<float>(deviation * random.normal(static_cast<std::uint64_t>(i)));
    auto* at =
        static_cast<unsigned char*>(values->raw()) + static_cast<std::size_t>(i) * size_of(dtype);
    if (dtype == DType::f32) {
      std::memcpy(at, &value, sizeof value);
    } else {
      std::uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      const auto upper = static_cast<std::uint16_t>(bits >> 16);
      std::memcpy(at, &upper, sizeof upper);
    }
  }
  const Tensor flat = result->view({elements});
  for (std::int64_t begin = 0; begin < elements; begin += block) {
    const std::int64_t count = std::min(block, elements - begin);
    copy(values->rows(0, count), flat.rows(begin, begin + count), stream);
  }
  stream.synchronize();
  return result;
}

void print_share(const char* name, double seconds, double bytes, double copy_bandwidth) {
  std::printf("%-52s %9.4f ms %8.1f MB %6.2f TB/s %5.1f %% of copy\n", name, seconds * 1e3,
              bytes * 1e-6, bytes / seconds * 1e-12, 100.0 * bytes / seconds / copy_bandwidth);
  std::fflush(stdout);
}

}  // namespace polymoe::benchmarks
