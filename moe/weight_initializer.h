// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "moe/model_config.h"
#include "parallel/parameters/parameter_store.h"

namespace polymoe {

/// How every weight matrix of the model starts: normal, of model.init_std, truncated.
inline Initializer weight_initializer(const ModelConfig& config) {
  return {.kind = InitialValues::normal,
          .scale = config.init_std,
          .truncation = config.init_truncation,
          .listed = {}};
}

}  // namespace polymoe
