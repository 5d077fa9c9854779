// SPDX-License-Identifier: Apache-2.0
#include "launch/saved_model.h"

#include <omp.h>

#include <numeric>
#include <string>
#include <vector>

#include "launch/first_rank.h"
#include "launch/node_threads.h"
#include "launch/resume.h"
#include "parallel/checkpoint.h"
#include "runtime/log.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

/// Rank 0 chooses, so that all ranks read the same checkpoint while a run goes on writing.
fs::path choose_checkpoint(const fs::path& path, Communicator& world) {
  return on_first_rank(world, [&] {
    std::vector<std::string> notes;
    const fs::path checkpoint = resolve_checkpoint(path, notes);
    Log log(0);
    for (const std::string& note : notes) log.warning(note);
    return checkpoint.string();
  });
}

Config config_of(const fs::path& checkpoint) {
  return parse_config(CheckpointReader(checkpoint).info().config, checkpoint.string(), {});
}

/// As many ranks as can hold the experts together do.
ProcessMesh make_mesh(const Config& config, std::unique_ptr<Communicator> world) {
  const auto ranks = static_cast<std::int64_t>(world->size());
  const std::int64_t experts = config.model.moe.experts;
  const int expert_parallel = experts > 0 ? static_cast<int>(std::gcd(experts, ranks)) : 1;
  return ProcessMesh(std::move(world), expert_parallel);
}

std::vector<TensorPiece> parameter_pieces(const ParameterStore& store) {
  std::vector<TensorPiece> pieces;
  for (const Parameter& parameter : store.parameters()) {
    const auto stacked = static_cast<std::int64_t>(parameter.logical.size());
    const std::int64_t each = parameter.shape.elements() / stacked;
    const Tensor flat = parameter.value.view({stacked, each});
    for (std::int64_t i = 0; i < stacked; ++i) {
      const LogicalTensor& logical = parameter.logical[static_cast<std::size_t>(i)];
      pieces.push_back({.name = "parameter/" + logical.name,
                        .shape = logical.shape,
                        .begin = 0,
                        .data = flat.rows(i, i + 1)});
    }
  }
  return pieces;
}

}  // namespace

SavedModel::SavedModel(const fs::path& path, std::unique_ptr<Communicator> world, int threads)
    : checkpoint_(choose_checkpoint(path, *world)),
      config_(config_of(checkpoint_)),
      mesh_(make_mesh(config_, std::move(world))),
      store_(mesh_),
      model_(config_.model, mesh_, store_),
      stream_(Device::cpu()),
      arena_(
          {.device = Device::cpu(), .capacity = static_cast<std::size_t>(usable_memory_bytes())}) {
  omp_set_num_threads(threads > 0 ? threads : threads_per_rank(mesh_.world()));
  store_.allocate(DType::f32, Device::cpu());
  std::vector<TensorPiece> wanted = parameter_pieces(store_);
  for (TensorPiece& piece : model_.router_bias_pieces()) wanted.push_back(std::move(piece));
  CheckpointReader(checkpoint_).read(wanted);
}

SavedModel::~SavedModel() = default;

}  // namespace polymoe
