// SPDX-License-Identifier: Apache-2.0
#include "parallel/parameters/parameter.h"

#include <string>
#include <utility>

#include "parallel/parameters/parameter_store.h"
#include "runtime/tensor.h"

namespace polymoe {

Parameter dense_parameter(std::string name, const Shape& shape, Initializer initializer,
                          ParameterKind kind) {
  Parameter parameter;
  parameter.logical.push_back({std::move(name), shape});
  parameter.shape = shape;
  parameter.scope = ParameterScope::dense;
  parameter.decay = kind == ParameterKind::weight;
  parameter.wide = kind == ParameterKind::coefficients;
  parameter.initializer = std::move(initializer);
  return parameter;
}

}  // namespace polymoe
