// SPDX-License-Identifier: Apache-2.0
#include "launch/examining/layout_difference.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "launch/examining/layout_steps.h"
#include "runtime/dtype.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

double relative(const std::vector<float>& a, const std::vector<float>& b) {
  double a_squares = 0.0, b_squares = 0.0, squares = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i];
    a_squares += x * x;
    b_squares += y * y;
    squares += (x - y) * (x - y);
  }
  if (squares == 0.0) return 0.0;
  return std::sqrt(squares / std::max(a_squares, b_squares));
}

/// Whether `value` is no number, or more than `limit`.
bool exceeds(double value, double limit) { return !(value <= limit); }

void compare(const std::vector<WholeTensor>& a, const std::vector<WholeTensor>& b, const char* kind,
             StepDifference::Of& largest, StepDifference& step) {
  if (a.size() != b.size()) throw InvalidArgument("layouts of other models");
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].name != b[i].name || a[i].values.size() != b[i].values.size())
      throw InvalidArgument(a[i].name + ", " + b[i].name + ": layouts of other models");
    const StepDifference::Of difference{a[i].name, relative(a[i].values, b[i].values)};
    if (largest.tensor.empty() || exceeds(difference.relative, largest.relative))
      largest = difference;
    if (!step.beyond && exceeds(difference.relative, step.allowed)) {
      step.beyond = difference;
      step.beyond_kind = kind;
    }
  }
}

}  // namespace

double rounding_allowed(DType dtype, std::int64_t step) {
  const double of_first = dtype == DType::bf16 ? 0.05 : 1e-4;
  return std::min(of_first * static_cast<double>(step * step), 0.5);
}

StepDifference difference_of(const LayoutStep& a, const LayoutStep& b, DType dtype) {
  StepDifference step;
  step.step = a.step;
  step.allowed = rounding_allowed(dtype, a.step);
  step.loss = std::abs(a.loss - b.loss) / std::max(std::abs(a.loss), std::abs(b.loss));
  compare(a.gradients, b.gradients, "gradient", step.gradients, step);
  compare(a.parameters, b.parameters, "parameter", step.parameters, step);
  return step;
}

std::string difference_text(const std::string& layout, const std::string& reference,
                            const std::vector<StepDifference>& steps, bool routes_in_bf16) {
  std::string text = fmt::format("{} against {}, relative differences\n", layout, reference);
  text += fmt::format("{:>5}  {:>8}  {:>9}  {:>9}  {:>9}  {}\n", "step", "loss", "gradients",
                      "weights", "allowed", "largest in the gradient of");
  const StepDifference* first = nullptr;
  for (const StepDifference& step : steps) {
    text += fmt::format("{:>5}  {:>8.1e}  {:>9.1e}  {:>9.1e}  {:>9.1e}  {}\n", step.step, step.loss,
                        step.gradients.relative, step.parameters.relative, step.allowed,
                        step.gradients.tensor);
    if (first == nullptr && step.beyond) first = &step;
  }
  if (steps.size() > 1 && steps.front().gradients.relative > 0.0)
    text +=
        fmt::format("grows by {:.2f} a step\n",
                    std::pow(steps.back().gradients.relative / steps.front().gradients.relative,
                             1.0 / static_cast<double>(steps.back().step - steps.front().step)));
  text += first == nullptr
              ? std::string("the same within rounding\n")
              : fmt::format("! first beyond rounding: {} of {} in step {}, {:.1e} apart\n",
                            first->beyond_kind, first->beyond->tensor, first->step,
                            first->beyond->relative);
  if (first != nullptr && first->step > 1 && routes_in_bf16)
    text +=
        "  behind the first update a token near a tie may go to another expert by the rounding of "
        "bf16 alone:\n  --train.precision=f32 tells whether that is all\n";
  return text;
}

}  // namespace polymoe
