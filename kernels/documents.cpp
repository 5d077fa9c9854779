// SPDX-License-Identifier: Apache-2.0
#include "kernels/documents.h"

#include <cstdint>

#include "kernels/check.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

namespace polymoe {

void check_documents(const char* operation, const Tensor& starts, std::int64_t rows,
                     Device device) {
  if (!starts.defined()) return;
  check_tensors(operation, device, {{"document_starts", starts, {rows}, DType::i32}});
}

}  // namespace polymoe
