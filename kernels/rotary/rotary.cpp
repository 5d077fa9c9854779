// SPDX-License-Identifier: Apache-2.0
#include "kernels/rotary/rotary.h"

#include <string>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/documents.h"
#include "kernels/rotary/rotary_backends.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void check_rotary(const char* operation, const char* name, const RotaryPositions& positions,
                  const Tensor& x) {
  check_real(operation, name, x, 3);
  if (x.dim(2) % 2 != 0) {
    throw InvalidArgument(std::string(operation) + ": the head dimension is " +
                          std::to_string(x.dim(2)) + ", expected an even number");
  }
  if (positions.sequence_length < 1) {
    throw InvalidArgument(std::string(operation) + ": sequence_length is " +
                          std::to_string(positions.sequence_length) + ", expected at least 1");
  }
  if (positions.first_position < 0) {
    throw InvalidArgument(std::string(operation) + ": first_position is " +
                          std::to_string(positions.first_position) + ", expected at least 0");
  }
  check_documents(operation, positions.document_starts, x.dim(0), x.device());
  if (positions.document_starts.defined() && positions.first_position != 0) {
    throw InvalidArgument(std::string(operation) + ": first_position is " +
                          std::to_string(positions.first_position) +
                          ", expected 0 where there are documents");
  }
}

namespace {

void rotate(const char* operation, const char* name, const RotaryPositions& positions, bool inverse,
            const Tensor& x, Stream& stream) {
  check_rotary(operation, name, positions, x);
  check_tensors(operation, stream.device(), {{name, x, x.shape(), x.dtype()}});
  dispatch(stream.device(),
           [&](auto backend) { detail::rotary(backend, positions, inverse, x, stream); });
}

}  // namespace

void rotary_forward(const RotaryPositions& positions, Tensor x, Stream& stream) {
  rotate("rotary_forward", "x", positions, false, x, stream);
}

void rotary_backward(const RotaryPositions& positions, Tensor d_y, Stream& stream) {
  rotate("rotary_backward", "d_y", positions, true, d_y, stream);
}

}  // namespace polymoe
