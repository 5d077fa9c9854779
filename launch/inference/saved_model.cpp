// SPDX-License-Identifier: Apache-2.0
#include "launch/inference/saved_model.h"

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "launch/checkpoints/layout_pieces.h"
#include "launch/checkpoints/resume.h"
#include "launch/config/config.h"
#include "launch/inference/warm_up.h"
#include "launch/machine/device_choice.h"
#include "launch/machine/node_threads.h"
#include "launch/step/arena_size.h"
#include "launch/step/memory_plan.h"
#include "launch/step/pass_limits.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/log.h"
#include "runtime/stream.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

CheckpointReader choose_checkpoint(const fs::path& path, Communicator& world) {
  std::vector<std::string> notes;
  CheckpointReader checkpoint = open_checkpoint(path, notes, world);
  if (world.rank() == 0) {
    Log log(Log::alone);
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

/// That of the run, which on a CPU is always f32: its values are widened there.
Precision inference_precision(const Config& config, Device device) {
  return device.type == DeviceType::cpu ? Precision::f32 : config.train.precision;
}

}  // namespace

SavedModel::SavedModel(const fs::path& path, std::unique_ptr<Communicator> world,
                       const Options& options)
    : checkpoint_(choose_checkpoint(path, *world)),
      config_(config_of(checkpoint_)),
      mesh_(make_mesh(config_, std::move(world))),
      store_(mesh_),
      model_(config_.model, mesh_, store_),
      batch_(options.batch),
      arena_(inference_arena(config_, mesh_, options.device, std::max(batch_, usual_batch))),
      execution_({.device = options.device, .capacity = arena_.bytes}) {
  omp_set_num_threads(options.threads > 0 ? allowed_threads(options.threads)
                                          : threads_per_rank(mesh_.world()));
  time_products_late(execution_.stream());
  store_.allocate(compute_dtype(inference_precision(config_, options.device), options.device.type),
                  options.device);
  const std::vector<TensorPiece> pieces = pieces_to_infer(store_, model_);
  if (options.scores && warms_up()) {
    read_warming_up(pieces);
  } else {
    checkpoint_.read(pieces, execution_.stream());
  }
}

/// A CPU has no kernels to load, and the f32 of a GPU is for verification. Several ranks would
/// exchange rows beside what reading a checkpoint says between them.
bool SavedModel::warms_up() const {
  return store_.dtype() == DType::bf16 && mesh_.world().size() == 1 && !drops_tokens(config_.model);
}

void SavedModel::read_warming_up(const std::vector<TensorPiece>& pieces) {
  const Device device = execution_.stream().device();
  // Until it has ended the model's stream and arena belong to the thread that warms up; parameters
  // are read on a stream of their own.
  std::future<void> warm = std::async(std::launch::async, [&] {
    cuda::use_device(device.index);
    warm_up(model_, arena_.limits, execution_.context());
  });
  Stream reading(device);
  checkpoint_.read(pieces, reading);
  warm.get();
}

SavedModel::~SavedModel() = default;

}  // namespace polymoe
