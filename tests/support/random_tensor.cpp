// SPDX-License-Identifier: Apache-2.0
#include "support/random_tensor.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime/error.h"
#include "runtime/random.h"

namespace polymoe::test {
namespace {

// The upper half of an f32's bits, rounded to nearest even.
struct Bfloat16 {
  Bfloat16() = default;
  explicit Bfloat16(double value) {
    const auto single = static_cast<float>(value);
    std::uint32_t word;
    std::memcpy(&word, &single, sizeof word);
    bits = static_cast<std::uint16_t>(
        std::isnan(single) ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
  explicit operator double() const {
    const std::uint32_t word = std::uint32_t{bits} << 16;
    float single;
    std::memcpy(&single, &word, sizeof single);
    return single;
  }
  std::uint16_t bits = 0;
};

template <class Operation>
void with_type(DType dtype, Operation&& operation) {
  switch (dtype) {
    case DType::f32:
      return operation(float{});
    case DType::f64:
      return operation(double{});
    case DType::bf16:
      return operation(Bfloat16{});
    case DType::i32:
      return operation(std::int32_t{});
    case DType::i64:
      return operation(std::int64_t{});
    default:
      throw InvalidArgument(std::string("test tensors are not made of ") + name_of(dtype));
  }
}

}  // namespace

OwnedTensor tensor_of(const Shape& shape, DType dtype, const std::vector<double>& values) {
  if (shape.elements() != static_cast<std::int64_t>(values.size())) {
    throw InvalidArgument(std::to_string(values.size()) + " values for shape " + to_string(shape));
  }
  OwnedTensor tensor(shape, dtype, Device::cpu());
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (std::size_t i = 0; i < values.size(); ++i) {
      static_cast<T*>(tensor->raw())[i] = static_cast<T>(values[i]);
    }
  });
  return tensor;
}

std::vector<double> values_of(const Tensor& tensor) {
  std::vector<double> values(static_cast<std::size_t>(tensor.elements()));
  with_type(tensor.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<double>(static_cast<const T*>(tensor.raw())[i]);
    }
  });
  return values;
}

OwnedTensor random_tensor(const Shape& shape, DType dtype, std::string_view name,
                          Normal distribution, std::uint64_t seed) {
  const RandomStream random(seed, name);
  std::vector<double> values(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = distribution.mean + distribution.deviation * random.normal(i);
  }
  return tensor_of(shape, dtype, values);
}

OwnedTensor poisoned_tensor(const Shape& shape, DType dtype) {
  OwnedTensor tensor(shape, dtype, Device::cpu());
  if (tensor->bytes() > 0) std::memset(tensor->raw(), 0xff, tensor->bytes());
  return tensor;
}

OwnedTensor converted(const Tensor& tensor, DType dtype) {
  return tensor_of(tensor.shape(), dtype, values_of(tensor));
}

}  // namespace polymoe::test
