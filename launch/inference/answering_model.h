// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

#include "launch/step/pass_limits.h"
#include "moe/language_model.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"

namespace polymoe {

/// A model that answers questions, on every rank of a mesh.
struct AnsweringModel {
  LanguageModel& model;
  const ProcessMesh& mesh;
  ExecutionContext& context;
  DType dtype;        // of its values
  PassLimits limits;  // of a rank's pass
  /// Asked before each pass, on every rank with the same answer: leave the rest? Empty = never.
  std::function<bool()> leave = {};
  /// Texts that a rank continues together; 0 = as memory has room for, see sequences_at_once().
  std::int64_t batch = 0;
};

}  // namespace polymoe
