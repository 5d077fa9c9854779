// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "launch/config/config.h"
#include "launch/inference/answering_model.h"
#include "launch/step/arena_size.h"
#include "moe/language_model.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/error.h"
#include "runtime/execution.h"

namespace polymoe {

/// A model read from a checkpoint, for use without training: parameters and router biases, no
/// optimizer. The ranks share out the experts as far as their number allows, whatever the layout
/// that wrote the checkpoint.
class SavedModel {
 public:
  struct Options {
    int threads = 0;  // of the calling thread from now on; 0 = the node's cores shared by its ranks
    Device device = Device::cpu();
    std::int64_t batch = 0;  // see AnsweringModel
    /// It scores tasks next: one GPU by itself loads their kernels while the parameters are read.
    bool scores = false;
  };

  /// `path` is a checkpoint or a run directory (then its newest valid checkpoint). Values have the
  /// precision of the run's configuration on that device. Collective over `world`.
  /// Throws InputFileError.
  SavedModel(const std::filesystem::path& path, std::unique_ptr<Communicator> world,
             const Options& options);
  ~SavedModel();

  const std::filesystem::path& checkpoint() const { return checkpoint_.directory(); }
  const Config& config() const { return config_; }
  const ProcessMesh& mesh() const { return mesh_; }
  LanguageModel& model() { return model_; }
  /// What parameters and activations are held in.
  DType dtype() const { return store_.dtype(); }
  ExecutionContext& context() { return execution_.context(); }
  /// Of the passes that its arena has room for.
  const PassLimits& limits() const { return arena_.limits; }
  AnsweringModel answering() {
    return {.model = model_,
            .mesh = mesh_,
            .context = context(),
            .dtype = dtype(),
            .limits = limits(),
            .batch = batch_};
  }

  /// The orderly, collective end.
  void shutdown() { mesh_.shutdown(); }

 private:
  bool warms_up() const;
  void read_warming_up(const std::vector<TensorPiece>& pieces);

  CheckpointReader checkpoint_;
  Config config_;
  ProcessMesh mesh_;
  ParameterStore store_;
  LanguageModel model_;
  const std::int64_t batch_;
  InferenceArena arena_;
  Execution execution_;
};

/// What `work` returns; values that are not finite are the checkpoint's fault: throws
/// InputFileError in the place of NotFiniteError.
template <class Work>
auto finite_or_refused(const SavedModel& saved, const Work& work) {
  try {
    return work();
  } catch (const NotFiniteError& error) {
    throw InputFileError(saved.checkpoint().string(), error.what());
  }
}

}  // namespace polymoe
