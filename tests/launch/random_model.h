// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <omp.h>

#include <cstddef>
#include <memory>
#include <utility>

#include "moe/language_model.h"
#include "moe/model_config.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/execution.h"

namespace polymoe::test {

/// A model with random parameters, on one of the ranks of this process, and what it runs on.
class RandomModel {
 public:
  RandomModel(const ModelConfig& config, std::unique_ptr<Communicator> world, int expert_parallel)
      : mesh(std::move(world), expert_parallel),
        store(mesh),
        model(config, mesh, store),
        execution({.device = Device::cpu(), .capacity = std::size_t{1} << 30, .poison = true}) {
    omp_set_num_threads(1);  // of this rank
    store.allocate(DType::f32, Device::cpu());
    store.initialize(5, context.stream);
  }

  ProcessMesh mesh;
  ParameterStore store;
  LanguageModel model;
  Execution execution;
  ExecutionContext& context = execution.context();
};

}  // namespace polymoe::test
