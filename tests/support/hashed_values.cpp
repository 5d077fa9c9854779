// SPDX-License-Identifier: Apache-2.0
#include "support/hashed_values.h"

#include <cmath>

#include "runtime/error.h"
#include "runtime/random.h"

namespace polymoe::test {
namespace {

double uniform(std::uint64_t key, std::int64_t index) {
  std::uint64_t z = key + static_cast<std::uint64_t>(index) + 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

template <class T>
void fill(std::uint64_t key, Uniform distribution, std::int64_t count, T* values) {
  for (std::int64_t i = 0; i < count; ++i) {
    values[i] =
        static_cast<T>(distribution.center + distribution.spread * (2.0 * uniform(key, i) - 1.0));
  }
}

}  // namespace

void fill_hashed(std::string_view name, Uniform distribution, const Tensor& values) {
  const std::uint64_t key = hash_of(name);
  switch (values.dtype()) {
    case DType::f32:
      return fill(key, distribution, values.elements(), values.data<float>());
    case DType::f64:
      return fill(key, distribution, values.elements(), values.data<double>());
    default:
      throw InvalidArgument(std::string("hashed values are f32 or f64, not ") +
                            name_of(values.dtype()));
  }
}

OwnedTensor hashed_tensor(const Shape& shape, DType dtype, std::string_view name,
                          Uniform distribution) {
  OwnedTensor result(shape, dtype, Device::cpu());
  fill_hashed(name, distribution, *result);
  return result;
}

OwnedTensor hashed_integers(std::string_view name, std::int64_t count, std::int64_t limit) {
  OwnedTensor result({count}, DType::i32, Device::cpu());
  const std::uint64_t key = hash_of(name);
  for (std::int64_t i = 0; i < count; ++i) {
    result->data<std::int32_t>()[i] =
        static_cast<std::int32_t>(std::floor(uniform(key, i) * static_cast<double>(limit)));
  }
  return result;
}

Uniform parameter_distribution(std::string_view name, const Shape& shape) {
  if (name.ends_with("norm.weight")) return {1.0, 0.3};
  if (name.ends_with("coefficients")) return {0.3, 0.25};
  if (name.ends_with("embedding.weight")) return {0.0, 1.5};
  return {0.0, 1.7 / std::sqrt(static_cast<double>(shape[shape.rank() - 1]))};
}

}  // namespace polymoe::test
