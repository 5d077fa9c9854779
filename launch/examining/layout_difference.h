// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/examining/layout_steps.h"
#include "runtime/dtype.h"

namespace polymoe {

/// How far a step of one layout is from the same step of another.
struct StepDifference {
  struct Of {
    std::string tensor;
    double relative = 0.0;  // ||a - b|| / max(||a||, ||b||); NaN where a value is not finite
  };
  std::int64_t step = 0;
  double loss = 0.0;         // |a - b| / max(|a|, |b|)
  Of gradients, parameters;  // the largest of all tensors
  double allowed = 0.0;      // what rounding explains in this step
  std::optional<Of> beyond;  // the first tensor, in the order of the step, that is further apart
  std::string beyond_kind;   // "gradient" or "parameter"
};

/// What rounding explains in step `step` of training in `dtype`: sums in another order differ in
/// their last bits, and each update carries that on.
double rounding_allowed(DType dtype, std::int64_t step);

/// How far two steps of one number differ. Throws InvalidArgument where they have other tensors.
StepDifference difference_of(const LayoutStep& a, const LayoutStep& b, DType dtype);

/// A table of the steps and what it comes to: the first tensor beyond rounding, or that there is
/// none; and by how much the difference grows from step to step. Where `routes_in_bf16`, rounding
/// alone sends tokens to other experts behind the first update, and the text says how to tell.
std::string difference_text(const std::string& layout, const std::string& reference,
                            const std::vector<StepDifference>& steps, bool routes_in_bf16);

}  // namespace polymoe
