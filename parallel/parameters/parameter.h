// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "parallel/parameters/parameter_store.h"

namespace polymoe {

/// Weights decay, and are rounded to the store's dtype; an activation's coefficients, of which
/// every bit counts, do neither.
enum class ParameterKind : std::uint8_t { weight, coefficients };

/// Description of a parameter that every rank of the world holds, for ParameterStore::declare: one
/// logical tensor of the given name and shape.
Parameter dense_parameter(std::string name, const Shape& shape, Initializer initializer,
                          ParameterKind kind = ParameterKind::weight);

}  // namespace polymoe
