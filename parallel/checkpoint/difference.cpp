// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/difference.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/statistics.h"
#include "runtime/buffer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

/// Sums over the elements so far. Equal bits add to the norms only, not finite ones to nothing.
struct Sums {
  double a_squares = 0.0, b_squares = 0.0, difference_squares = 0.0;
  bool not_comparable = false;

  void add(double a, double b, bool same_bits, double& largest) {
    if (same_bits && !std::isfinite(a)) return;
    if (!std::isfinite(a) || !std::isfinite(b)) {
      not_comparable = true;
      return;
    }
    const double difference = a - b;
    a_squares += a * a;
    b_squares += b * b;
    difference_squares += difference * difference;
    largest = std::max(largest, std::abs(difference));
  }
};

}  // namespace

TensorDifference difference_of(const CheckpointReader& a, const CheckpointReader& b,
                               const std::string& name) {
  const auto* stored = a.manifest().find(name);
  if (stored == nullptr) throw InputFileError(name, "no such tensor");
  TensorDifference result;
  Sums sums;
  std::vector<double> values, others;
  OwnedTensor memory;
  std::int64_t begin = 0;
  stream_tensor(a, *stored, [&](const Tensor& part) {
    // The first part is the largest one.
    if (begin == 0) memory = OwnedTensor(part.shape(), part.dtype(), Device::cpu());
    const Tensor other = memory->rows(0, part.elements());
    b.read({{name, stored->shape, begin, other}});
    begin += part.elements();
    const std::size_t size = size_of(part.dtype());
    const auto* bytes = static_cast<const char*>(part.raw());
    const auto* other_bytes = static_cast<const char*>(other.raw());
    to_doubles(part, values);
    to_doubles(other, others);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bool same = std::memcmp(bytes + i * size, other_bytes + i * size, size) == 0;
      if (!same) ++result.differing;
      sums.add(values[i], others[i], same, result.largest);
    }
  });
  result.same_bits = result.differing == 0;
  if (sums.not_comparable) {
    result.relative = result.largest = std::numeric_limits<double>::quiet_NaN();
  } else if (sums.difference_squares > 0.0) {
    result.relative = std::sqrt(sums.difference_squares / std::max(sums.a_squares, sums.b_squares));
  }
  return result;
}

}  // namespace polymoe
