// SPDX-License-Identifier: Apache-2.0
#include "layers/feed_forward_parameters.h"

#include <cstdint>

#include "kernels/feed_forward/feed_forward.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/dtype.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

/// With the leading dimension of a group, which a single one of `rank` dimensions lacks.
Tensor grouped(const Tensor& tensor, int rank) {
  if (tensor.shape().rank() != rank) return tensor;
  return rank == 1 ? tensor.view({1, tensor.dim(0)})
                   : tensor.view({1, tensor.dim(0), tensor.dim(1)});
}

}  // namespace

FeedForwardParameters::FeedForwardParameters(const Parameter& up, const Parameter& down,
                                             const Parameter* coefficients)
    : up_(&up),
      down_(&down),
      coefficients_(coefficients),
      pre_width_(up.shape[up.shape.rank() - 2]),
      width_(down.shape[down.shape.rank() - 1]) {}

FeedForwardWeights FeedForwardParameters::tensors(Tensor Parameter::*which) const {
  FeedForwardWeights result{grouped(up_->*which, 2), grouped(down_->*which, 2), {}};
  if (coefficients_ != nullptr) result.coefficients = grouped(coefficients_->*which, 1);
  return result;
}

Tensor FeedForwardParameters::allocate_pre(std::int64_t rows, DType dtype, Arena& arena) const {
  return arena.allocate({rows, pre_width_}, dtype);
}

Tensor FeedForwardParameters::allocate_activated(std::int64_t rows, DType dtype,
                                                 Arena& arena) const {
  return arena.allocate({rows, width_}, dtype);
}

}  // namespace polymoe
