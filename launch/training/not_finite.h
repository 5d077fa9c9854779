// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "launch/step/training_model.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"

namespace polymoe {

/// Where the values of a step are not finite: "weights: ...; activations: ...; gradients: ...",
/// each with the first place and its rank, in the order in which a step comes to them, the same
/// text on every rank. Runs the step's forward pass once more, of which `fill` gives the tokens,
/// and where documents begin with `documents`; gradients are the reduced ones. Changes nothing.
/// Collective over the mesh.
std::string name_not_finite(TrainingModel& model, const ProcessMesh& mesh,
                            const TrainingModel::FillPass& fill, bool documents,
                            ExecutionContext& context);

}  // namespace polymoe
