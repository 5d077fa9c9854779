// SPDX-License-Identifier: Apache-2.0
#include "kernels/activation/activation.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation/activation_backends.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "runtime/arena.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {

void check_floating(const char* operation, const char* name, const Tensor& tensor) {
  check_real(operation, name, tensor, tensor.defined() ? tensor.shape().rank() : 0);
}

void check_activation(const char* operation, const Activation& activation) {
  if (activation.order < 2 || activation.order > 4) {
    throw InvalidArgument(std::string(operation) + ": order is " +
                          std::to_string(activation.order) + ", allowed are 2 to 4");
  }
  if (!(activation.epsilon > 0.0 && activation.epsilon < 1.0)) {
    throw InvalidArgument(std::string(operation) + ": epsilon is " +
                          std::to_string(activation.epsilon) + ", expected a value in (0, 1)");
  }
}

void check_offsets(const char* operation, const std::vector<std::int64_t>& offsets,
                   std::int64_t rows) {
  bool right = offsets.size() >= 2 && offsets.front() == 0 && offsets.back() == rows;
  for (std::size_t g = 1; right && g < offsets.size(); ++g) right = offsets[g - 1] <= offsets[g];
  if (right) return;
  std::string found;
  for (const std::int64_t offset : offsets) {
    found += (found.empty() ? "" : ", ") + std::to_string(offset);
  }
  throw InvalidArgument(std::string(operation) + ": group offsets are [" + found +
                        "], expected ascending values from 0 to the row count " +
                        std::to_string(rows));
}

void check_coefficients(const char* operation, const char* name, const Activation& activation,
                        const Tensor& coefficients, std::int64_t groups, DType dtype,
                        Device device) {
  const std::int64_t count = coefficient_count(activation);
  if (count == 0) return;
  const bool per_group =
      coefficients.defined() && coefficients.shape().rank() == 2 && coefficients.dim(0) == groups;
  check_tensors(operation, device,
                {{name, coefficients, Shape{per_group ? groups : 1, count}, dtype}});
}

namespace {

// Shape of the activation's output rows, from the pre-activations.
Shape output_shape(const char* operation, const Activation& activation, const Tensor& x) {
  check_floating(operation, "x", x);
  const std::int64_t factor = pre_activation_factor(activation.kind);
  if (x.shape().rank() != 2 || x.dim(1) % factor != 0) {
    throw InvalidArgument(std::string(operation) + ": x has shape " + to_string(x.shape()) +
                          ", expected [rows, " + (factor == 2 ? "2 * " : "") + "width]");
  }
  return {x.dim(0), x.dim(1) / factor};
}

// What both passes are given: their activation, rows, groups and coefficients. Returns the shape of
// the output rows.
Shape check_rows(const char* operation, const Activation& activation, const Tensor& x,
                 const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                 Device device) {
  check_activation(operation, activation);
  const Shape shape = output_shape(operation, activation, x);
  check_offsets(operation, group_offsets, x.dim(0));
  check_coefficients(operation, "coefficients", activation, coefficients,
                     static_cast<std::int64_t>(group_offsets.size()) - 1,
                     accumulation_dtype(x.dtype()), device);
  return shape;
}

// Weights are optional; where they are given, there is one for each row of x.
void check_row_weights(const char* operation, const char* name, const Tensor& weights,
                       const Tensor& x, Device device) {
  if (!weights.defined()) return;
  check_tensors(operation, device,
                {{name, weights, Shape{x.dim(0)}, accumulation_dtype(x.dtype())}});
}

}  // namespace

void activation_forward(const Activation& activation, const Tensor& x, const Tensor& coefficients,
                        const std::vector<std::int64_t>& group_offsets, const Tensor& row_weights,
                        Tensor y, Stream& stream) {
  constexpr const char* operation = "activation_forward";
  const Shape shape =
      check_rows(operation, activation, x, coefficients, group_offsets, stream.device());
  check_tensors(operation, stream.device(),
                {{"x", x, x.shape(), x.dtype()}, {"y", y, shape, x.dtype()}});
  check_row_weights(operation, "row_weights", row_weights, x, stream.device());
  dispatch(stream.device(), [&](auto backend) {
    detail::activation_forward(backend, activation, x, coefficients, group_offsets, row_weights, y,
                               stream);
  });
}

void activation_backward(const Activation& activation, const Tensor& d_y, const Tensor& x,
                         const Tensor& coefficients, const std::vector<std::int64_t>& group_offsets,
                         const Tensor& row_weights, const ActivationGradients& gradients,
                         Arena& scratch, Stream& stream) {
  constexpr const char* operation = "activation_backward";
  const Shape shape =
      check_rows(operation, activation, x, coefficients, group_offsets, stream.device());
  if (coefficient_count(activation) > 0) {
    check_tensors(operation, stream.device(),
                  {{"d_coefficients", gradients.d_coefficients, coefficients.shape(),
                    accumulation_dtype(x.dtype())}});
  }
  check_tensors(operation, stream.device(),
                {{"d_y", d_y, shape, x.dtype()},
                 {"x", x, x.shape(), x.dtype()},
                 {"d_x", gradients.d_x, x.shape(), x.dtype()}});
  if (gradients.y.defined()) {
    check_tensors(operation, stream.device(), {{"y", gradients.y, shape, x.dtype()}});
  }
  check_row_weights(operation, "row_weights", row_weights, x, stream.device());
  check_row_weights(operation, "d_row_weights", gradients.d_row_weights, x, stream.device());
  const Arena::Scope scope(scratch);
  const Tensor partial_sums = scratch.allocate(
      detail::activation_partial_sums(activation, x.dim(0),
                                      static_cast<std::int64_t>(group_offsets.size()) - 1),
      DType::f64);
  dispatch(stream.device(), [&](auto backend) {
    detail::activation_backward(backend, activation, d_y, x, coefficients, group_offsets,
                                row_weights, gradients, partial_sums, stream);
  });
}

}  // namespace polymoe
