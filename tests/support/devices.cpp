// SPDX-License-Identifier: Apache-2.0
#include "support/devices.h"

#include "runtime/copy.h"
#include "runtime/cuda/cuda_device.h"
#include "support/random_tensor.h"

namespace polymoe::test {
namespace {

constexpr std::size_t arena_bytes = std::size_t{256} << 20;

bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16;
}

}  // namespace

const std::vector<Placement>& placements() {
  static const std::vector<Placement> all = {{DeviceType::cpu, DType::f32},
                                             {DeviceType::cuda, DType::f32},
                                             {DeviceType::cuda, DType::bf16}};
  return all;
}

std::string name_of_placement(const ::testing::TestParamInfo<Placement>& info) {
  return std::string(info.param.device == DeviceType::cpu ? "cpu" : "cuda") + "_" +
         name_of(info.param.dtype);
}

double norm_tolerance(DType dtype) {
  if (dtype == DType::bf16) return 1e-2;
  return dtype == DType::f64 ? 1e-12 : 1e-5;
}

void OnDevice::SetUp() {
  if (device().type == DeviceType::cuda && cuda::device_count() == 0) {
    GTEST_SKIP() << cuda::unavailable_reason();
  }
  stream_.emplace(device());
  arena_.emplace(Arena::Options{device(), arena_bytes, true});
}

OwnedTensor OnDevice::moved(const Tensor& host) {
  OwnedTensor result(host.shape(), host.dtype(), device());
  copy(host, *result, stream());
  stream().synchronize();
  return result;
}

OwnedTensor OnDevice::moved(const Tensor& host, DType dtype) {
  return moved(*converted(host, dtype));
}

OwnedTensor OnDevice::poisoned(const Shape& shape, DType dtype) {
  return moved(*poisoned_tensor(shape, dtype));
}

OwnedTensor OnDevice::fetched(const Tensor& tensor) {
  OwnedTensor host(tensor.shape(), tensor.dtype(), Device::cpu());
  copy(tensor, *host, stream());
  stream().synchronize();
  return is_floating(tensor.dtype()) ? converted(*host, DType::f64) : std::move(host);
}

}  // namespace polymoe::test
