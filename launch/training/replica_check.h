// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "moe/language_model.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/stream.h"

namespace polymoe {

/// Compares hashes of what several ranks hold alike: every parameter over the ranks that hold it,
/// router biases over all. Between two updates they have the same bits. Copies them to the host.
/// Collective over the mesh. Throws Error, on every rank, that names the first tensor that differs
/// and the ranks whose copy is another one than that of most.
void check_replicas(const ParameterStore& store, LanguageModel& model, const ProcessMesh& mesh,
                    Stream& stream);

}  // namespace polymoe
