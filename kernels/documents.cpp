// SPDX-License-Identifier: Apache-2.0
#include "kernels/documents.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "kernels/check.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

namespace polymoe {

DocumentLengths lengths_of_documents(std::span<const std::int32_t> starts, std::int64_t length) {
  DocumentLengths lengths{.shortest = std::numeric_limits<std::int64_t>::max(), .longest = 0};
  const auto count = [&](std::int64_t rows) {
    lengths.shortest = std::min(lengths.shortest, rows);
    lengths.longest = std::max(lengths.longest, rows);
  };
  const auto size = static_cast<std::int64_t>(starts.size());
  for (std::int64_t first = 0, next = 0; first < size; first = next) {
    const std::int64_t end = first - first % length + length;
    const std::int32_t start = starts[static_cast<std::size_t>(first)];
    next = first + 1;
    if (start != no_document) {
      while (next < end && starts[static_cast<std::size_t>(next)] == start) ++next;
    }
    count(next - first);
  }
  return size == 0 ? DocumentLengths{} : lengths;
}

void check_documents(const char* operation, const Tensor& starts, std::int64_t rows,
                     Device device) {
  if (!starts.defined()) return;
  check_tensors(operation, device, {{"document_starts", starts, {rows}, DType::i32}});
}

}  // namespace polymoe
