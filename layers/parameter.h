// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "parallel/parameter_store.h"

namespace polymoe {

/// Description of a parameter that every rank of the world holds, for ParameterStore::declare: one
/// logical tensor of the given name and shape.
Parameter dense_parameter(std::string name, const Shape& shape, Initializer initializer,
                          bool decay = true);

}  // namespace polymoe
