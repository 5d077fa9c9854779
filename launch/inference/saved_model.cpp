// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/saved_model.h"

#include <omp.h>

#include <numeric>
#include <string>
#include <vector>

#include "launch/checkpoints/resume.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/node_threads.h"
#include "launch/step/memory_plan.h"
#include "runtime/log.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

CheckpointReader choose_checkpoint(const fs::path& path, Communicator& world) {
  std::vector<std::string> notes;
  CheckpointReader checkpoint = open_checkpoint(path, notes, world);
  if (world.rank() == 0) {
    Log log(0);
    for (const std::string& note : notes) log.warning(note);
  }
  return checkpoint;
}

Config config_of(const CheckpointReader& checkpoint) {
  return parse_config(checkpoint.info().config, checkpoint.directory().string(), {});
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

/// That of the run, which on a CPU is always f32: its values are widened there.
Precision inference_precision(const Config& config, Device device) {
  return device.type == DeviceType::cpu ? Precision::f32 : config.train.precision;
}

/// See Trainer: an upper bound on a CPU. The number of rows that arrive from other ranks has no
/// bound but that all tokens of the group may choose the same experts.
std::size_t arena_bytes(const Config& config, const ProcessMesh& mesh, Device device) {
  if (device.type != DeviceType::cuda) return static_cast<std::size_t>(usable_memory_bytes());
  const std::size_t planned =
      plan_inference(config, mesh.world().size(), mesh.expert_parallel(), device.type);
  return planned * static_cast<std::size_t>(mesh.expert_parallel());
}

}  // namespace

SavedModel::SavedModel(const fs::path& path, std::unique_ptr<Communicator> world,
                       const Options& options)
    : checkpoint_(choose_checkpoint(path, *world)),
      config_(config_of(checkpoint_)),
      mesh_(make_mesh(config_, std::move(world))),
      store_(mesh_),
      model_(config_.model, mesh_, store_),
      stream_(options.device),
      arena_({.device = options.device, .capacity = arena_bytes(config_, mesh_, options.device)}) {
  omp_set_num_threads(options.threads > 0 ? allowed_threads(options.threads)
                                          : threads_per_rank(mesh_.world()));
  store_.allocate(compute_dtype(inference_precision(config_, options.device), options.device.type),
                  options.device);
  std::vector<TensorPiece> wanted = parameter_pieces(store_);
  for (TensorPiece& piece : model_.router_bias_pieces()) wanted.push_back(std::move(piece));
  checkpoint_.read(wanted, stream_);
}

SavedModel::~SavedModel() = default;

}  // namespace polymoe
