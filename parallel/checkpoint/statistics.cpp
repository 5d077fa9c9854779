// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/reader.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/float16.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

constexpr std::int64_t part_elements = std::int64_t{1} << 22;

template <class T>
void copy_as_doubles(const Tensor& part, std::vector<double>& values) {
  const T* first = part.data<T>();
  values.assign(first, first + part.elements());
}

}  // namespace

void stream_tensor(const CheckpointReader& checkpoint,
                   const CheckpointManifest::StoredTensor& tensor,
                   const std::function<void(const Tensor& part)>& visit) {
  const std::int64_t elements = tensor.shape.elements();
  const OwnedTensor memory({std::min(elements, part_elements)}, tensor.dtype, Device::cpu());
  for (std::int64_t begin = 0; begin < elements; begin += part_elements) {
    const Tensor part = memory->rows(0, std::min(part_elements, elements - begin));
    checkpoint.read({{tensor.name, tensor.shape, begin, part}});
    visit(part);
  }
}

void to_doubles(const Tensor& part, std::vector<double>& values) {
  switch (part.dtype()) {
    case DType::f32:
      return copy_as_doubles<float>(part, values);
    case DType::f64:
      return copy_as_doubles<double>(part, values);
    case DType::bf16: {
      const auto* first = static_cast<const std::uint16_t*>(part.raw());
      values.resize(static_cast<std::size_t>(part.elements()));
      std::transform(first, first + part.elements(), values.begin(), float_of_bf16);
      return;
    }
    case DType::i32:
      return copy_as_doubles<std::int32_t>(part, values);
    case DType::i64:
      return copy_as_doubles<std::int64_t>(part, values);
    default:
      throw InvalidArgument(std::string("values of dtype ") + name_of(part.dtype()) +
                            "; allowed are f32, f64, bf16, i32 and i64");
  }
}

TensorStatistics statistics_of(const CheckpointReader& checkpoint,
                               const CheckpointManifest::StoredTensor& tensor) {
  TensorStatistics statistics;
  double squares = 0.0;
  std::vector<double> values;
  stream_tensor(checkpoint, tensor, [&](const Tensor& part) {
    to_doubles(part, values);
    for (const double value : values) {
      if (!std::isfinite(value)) {
        ++statistics.not_finite;
        continue;
      }
      squares += value * value;
      statistics.largest = std::max(statistics.largest, std::abs(value));
    }
  });
  statistics.norm = std::sqrt(squares);
  return statistics;
}

}  // namespace polymoe
