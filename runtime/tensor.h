// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "runtime/device.h"
#include "runtime/dtype.h"

namespace polymoe {

/// Extents of a dense row-major array of up to four dimensions.
class Shape {
 public:
  static constexpr int max_rank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const {
    assert(i >= 0 && i < rank_);
    return extents_[static_cast<std::size_t>(i)];
  }
  /// Product of the extents; 1 for rank 0.
  std::int64_t elements() const;
  /// The same shape with its first extent replaced.
  Shape with_first(std::int64_t extent) const;

  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<std::int64_t, max_rank> extents_{};  // unused ones stay 0, so == compares all
  int rank_ = 0;
};

/// "[128, 64]".
std::string to_string(const Shape& shape);

/// A typed view of memory that somebody else owns: a Buffer, an Arena, or the caller. Always dense
/// and row-major. Copying a Tensor copies the view. On the meta device `data` is null.
class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, const Shape& shape, DType dtype, Device device)
      : data_(data), shape_(shape), dtype_(dtype), device_(device), defined_(true) {}

  /// False for a default-constructed tensor: "not given".
  bool defined() const { return defined_; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int i) const { return shape_[i]; }
  std::int64_t elements() const { return shape_.elements(); }
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  /// Typed pointer to the first element. T must be the dtype's C++ type.
  template <class T>
  T* data() const {
    assert(dtype_of<T>() == dtype_);
    return static_cast<T*>(data_);
  }
  void* raw() const { return data_; }

  /// The same elements under another shape. Throws InvalidArgument if the counts differ.
  Tensor view(const Shape& shape) const;
  /// Rows [begin, end) of the first dimension.
  Tensor rows(std::int64_t begin, std::int64_t end) const;

 private:
  void* data_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_;
  bool defined_ = false;
};

}  // namespace polymoe
