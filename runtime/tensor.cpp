// SPDX-License-Identifier: Apache-2.0
#include "runtime/tensor.h"

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "runtime/dtype.h"
#include "runtime/error.h"

namespace polymoe {

Shape::Shape(std::initializer_list<std::int64_t> extents) {
  if (extents.size() > max_rank) throw InvalidArgument("a shape has at most 4 dimensions");
  for (const std::int64_t extent : extents) {
    if (extent < 0) throw InvalidArgument("negative extent " + std::to_string(extent));
    extents_[static_cast<std::size_t>(rank_++)] = extent;
  }
}

std::int64_t Shape::elements() const {
  std::int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= extents_[static_cast<std::size_t>(i)];
  return product;
}

Shape Shape::with_first(std::int64_t extent) const {
  assert(rank_ > 0 && extent >= 0);
  Shape result = *this;
  result.extents_[0] = extent;
  return result;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

Tensor Tensor::view(const Shape& shape) const {
  if (shape.elements() != elements()) {
    throw InvalidArgument("cannot view " + to_string(shape_) + " as " + to_string(shape));
  }
  return {data_, shape, dtype_, device_};
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  assert(shape_.rank() > 0 && 0 <= begin && begin <= end && end <= shape_[0]);
  const std::int64_t row = shape_[0] == 0 ? 0 : elements() / shape_[0];
  auto* first = data_ == nullptr ? nullptr
                                 : static_cast<std::byte*>(data_) +
                                       static_cast<std::size_t>(begin * row) * size_of(dtype_);
  return {first, shape_.with_first(end - begin), dtype_, device_};
}

}  // namespace polymoe
