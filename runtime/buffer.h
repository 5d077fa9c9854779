// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "runtime/tensor.h"

namespace polymoe {

/// Owns one zero-filled allocation on a device, aligned to 64 bytes at least. Move-only. On the
/// meta device it owns a size and no memory.
class Buffer {
 public:
  Buffer() = default;
  /// Throws DeviceError when the memory is not to be had.
  Buffer(std::size_t bytes, Device device);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  void* data() const { return data_; }
  /// View of `shape` elements from byte `offset` on. Throws InvalidArgument beyond the end.
  Tensor tensor(const Shape& shape, DType dtype, std::size_t offset) const;

 private:
  void release() noexcept;

  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Device device_;
};

/// A tensor with memory of its own.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  /// Zero-filled.
  OwnedTensor(const Shape& shape, DType dtype, Device device)
      : buffer_(static_cast<std::size_t>(shape.elements()) * size_of(dtype), device),
        tensor_(buffer_.tensor(shape, dtype, 0)) {}

  const Tensor& get() const { return tensor_; }
  const Tensor* operator->() const { return &tensor_; }
  const Tensor& operator*() const { return tensor_; }

 private:
  Buffer buffer_;
  Tensor tensor_;
};

}  // namespace polymoe
