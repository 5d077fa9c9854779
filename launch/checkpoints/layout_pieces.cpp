// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoints/layout_pieces.h"

#include <utility>

#include "moe/language_model.h"
#include "parallel/communication/planning/planning_communicator.h"
#include "parallel/parameters/sharded_optimizer.h"

namespace polymoe {

std::vector<TensorPiece> checkpoint_pieces(const ModelConfig& model, const RankOfLayout& place,
                                           bool with_moments) {
  const ProcessMesh mesh(make_planning_world(place.rank, place.ranks, place.expert_parallel),
                         place.expert_parallel);
  ParameterStore store(mesh);
  LanguageModel language_model(model, mesh, store);
  store.allocate(DType::f32, Device::meta());
  const ShardedOptimizer optimizer(store, {});
  std::vector<TensorPiece> pieces;
  for (TensorPiece& piece : optimizer.pieces_to_save())
    if (with_moments || piece.name.starts_with("parameter/")) pieces.push_back(std::move(piece));
  // The same on every rank; a checkpoint holds each element once.
  if (place.rank == 0)
    for (TensorPiece& piece : language_model.router_bias_pieces())
      pieces.push_back(std::move(piece));
  return pieces;
}

}  // namespace polymoe
