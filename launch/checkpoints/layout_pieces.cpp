// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoints/layout_pieces.h"

#include <utility>
#include <vector>

#include "moe/language_model.h"
#include "moe/model_config.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/planning/planning_communicator.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "parallel/parameters/sharded_optimizer.h"
#include "runtime/device.h"
#include "runtime/dtype.h"

namespace polymoe {
namespace {

std::vector<TensorPiece> with_router_biases(std::vector<TensorPiece> pieces, LanguageModel& model) {
  for (TensorPiece& piece : model.router_bias_pieces()) pieces.push_back(std::move(piece));
  return pieces;
}

}  // namespace

std::vector<TensorPiece> pieces_to_save(const ShardedOptimizer& optimizer, LanguageModel& model,
                                        int rank) {
  std::vector<TensorPiece> pieces = optimizer.pieces_to_save();
  return rank == 0 ? with_router_biases(std::move(pieces), model) : pieces;
}

std::vector<TensorPiece> pieces_to_load(const ShardedOptimizer& optimizer, LanguageModel& model,
                                        bool with_moments) {
  return with_router_biases(optimizer.pieces_to_load(with_moments), model);
}

std::vector<TensorPiece> pieces_to_infer(const ParameterStore& store, LanguageModel& model) {
  return with_router_biases(value_pieces(store), model);
}

std::vector<TensorPiece> checkpoint_pieces(const ModelConfig& model, const RankOfLayout& place,
                                           bool with_moments) {
  const ProcessMesh mesh(make_planning_world(place.rank, place.ranks, place.expert_parallel),
                         place.expert_parallel);
  ParameterStore store(mesh);
  LanguageModel language_model(model, mesh, store);
  store.allocate(DType::f32, Device::meta());
  const ShardedOptimizer optimizer(store, {});
  std::vector<TensorPiece> pieces = pieces_to_save(optimizer, language_model, place.rank);
  if (!with_moments)
    std::erase_if(pieces, [](const TensorPiece& piece) { return is_optimizer_state(piece.name); });
  return pieces;
}

}  // namespace polymoe
