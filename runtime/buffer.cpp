// SPDX-License-Identifier: Apache-2.0
#include "runtime/buffer.h"

#include <sys/mman.h>

#include <cstddef>
#include <string>
#include <utility>

#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/tensor.h"

namespace polymoe {

Buffer::Buffer(std::size_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (bytes == 0 || device.type == DeviceType::meta) return;
  if (device.type == DeviceType::cuda) {
    data_ = cuda::allocate(bytes, device.index);
    return;
  }
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw DeviceError("out of memory on cpu: " + std::to_string(bytes) + " bytes wanted");
  }
  madvise(memory, bytes, MADV_HUGEPAGE);  // advice only: small pages work too
  data_ = memory;
}

Buffer::~Buffer() { release(); }

void Buffer::release() noexcept {
  if (data_ == nullptr) return;
  if (device_.type == DeviceType::cuda) {
    cuda::release(data_);
  } else {
    munmap(data_, bytes_);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    release();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    device_ = other.device_;
  }
  return *this;
}

Tensor Buffer::tensor(const Shape& shape, DType dtype, std::size_t offset) const {
  const std::size_t size = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  if (offset > bytes_ || size > bytes_ - offset) {
    throw InvalidArgument("a view of " + std::to_string(size) + " bytes at offset " +
                          std::to_string(offset) + " passes the end of a buffer of " +
                          std::to_string(bytes_) + " bytes");
  }
  auto* first = data_ == nullptr ? nullptr : static_cast<std::byte*>(data_) + offset;
  return {first, shape, dtype, device_};
}

}  // namespace polymoe
