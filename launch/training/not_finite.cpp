// SPDX-License-Identifier: Apache-2.0
#include "launch/training/not_finite.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/reduction/reduction.h"
#include "launch/data/token_rows.h"
#include "launch/step/token_batch.h"
#include "launch/step/training_model.h"
#include "layers/batch.h"
#include "moe/language_model.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

bool finite(const Tensor& values, ExecutionContext& context) {
  if (!values.defined() || values.elements() == 0) return true;
  const Arena::Scope scope(context.arena);
  const Tensor result = context.arena.allocate({1}, DType::f64);
  // In f64 no sum of finite f32 or bf16 values overflows.
  sum(values.view({values.elements()}), result, context.arena, context.stream);
  return std::isfinite(host_values<double>(result, context.stream)[0]);
}

/// Places in the order in which a step comes to them, and which of them hold values of this rank
/// that are not finite.
class Places {
 public:
  /// `count` places, the same on every rank.
  explicit Places(std::size_t count) : names_(count) {}

  void found(std::size_t place, const std::string& name) {
    if (names_[place].empty()) names_[place] = name;
  }

  /// "all finite", or the first place with one of its ranks, and how many there are. Collective.
  std::string text(Communicator& world, Stream& stream) const {
    std::vector<std::int64_t> marks;  // 0, or the larger the lower the rank is
    for (const std::string& name : names_)
      marks.push_back(name.empty() ? 0 : world.size() - world.rank());
    world.all_reduce(
        Tensor(marks.data(), {static_cast<std::int64_t>(marks.size())}, DType::i64, Device::cpu()),
        Reduction::max, stream);
    const auto first = std::find_if(marks.begin(), marks.end(), [](auto mark) { return mark > 0; });
    if (first == marks.end()) return "all finite";
    const int rank = world.size() - static_cast<int>(*first);
    const std::string name =
        broadcast_text(names_[static_cast<std::size_t>(first - marks.begin())], rank, world);
    const auto count = std::count_if(marks.begin(), marks.end(), [](auto m) { return m > 0; });
    return fmt::format("first not finite in {} (rank {}), in {} of {} places", name, rank, count,
                       marks.size());
  }

 private:
  std::vector<std::string> names_;  // empty = finite
};

/// Marks the parameters of which a part of `flat` is not finite.
void search(const ParameterStore& store, const Tensor& flat,
            const std::vector<LogicalRange>& ranges,
            const std::function<std::size_t(std::size_t)>& place_of, Places& places,
            ExecutionContext& context) {
  const auto& parameters = store.parameters();
  for (const LogicalRange& range : ranges) {
    if (finite(flat.rows(range.flat_begin, range.flat_begin + range.count), context)) continue;
    const auto at = std::find_if(parameters.begin(), parameters.end(),
                                 [&](const Parameter& one) { return &one == range.parameter; });
    places.found(place_of(static_cast<std::size_t>(at - parameters.begin())), range.tensor->name);
  }
}

Places weights(const ParameterStore& store, ExecutionContext& context) {
  Places places(store.parameters().size());
  for (const ParameterScope scope : all_parameter_scopes) {
    const Tensor& values = store.values(scope);
    search(
        store, values, store.logical_ranges(scope, {0, values.elements()}),
        [](std::size_t parameter) { return parameter; }, places, context);
  }
  return places;
}

/// In the order of the backward pass.
Places gradients(const ParameterStore& store, ExecutionContext& context) {
  const std::size_t count = store.parameters().size();
  Places places(count);
  for (const ParameterScope scope : all_parameter_scopes)
    for (int segment = 0; segment < store.segments(); ++segment)
      search(
          store, store.gradients(scope), store.logical_ranges(scope, store.owned(scope, segment)),
          [&](std::size_t parameter) { return count - 1 - parameter; }, places, context);
  return places;
}

/// The residual stream behind the embedding, then of each layer what the attention and what the
/// feed-forward made of it, then the losses of the tokens.
Places activations(TrainingModel& model, int rank, const TrainingModel::FillPass& fill,
                   bool documents, ExecutionContext& context) {
  const std::int64_t layers = model.model().config().layers;
  Places places(2 * static_cast<std::size_t>(layers) + 2);
  const auto look = [&](const LayerObservation& seen) {
    if (seen.layer < 0) {
      if (!finite(seen.x, context)) places.found(0, "the embedding");
      return;
    }
    const std::size_t place = 1 + 2 * static_cast<std::size_t>(seen.layer);
    if (!finite(seen.x, context))
      places.found(place, fmt::format("layers.{}.attention", seen.layer));
    if (!finite(seen.branch, context))
      places.found(place + 1, fmt::format("layers.{}.feed_forward", seen.layer));
  };
  for (std::int64_t pass = 0; pass < model.shares().passes; ++pass) {
    const Arena::Scope scope(context.arena);
    const TokenBatch batch = make_batch(
        {.sequences = model.shares().of(pass, rank).count,
         .length = model.model().config().context,
         .documents = documents},
        [&](const TokenRows& to) { fill(pass, to); }, context);
    if (!finite(model.model().observe(batch, look, context), context))
      places.found(2 * static_cast<std::size_t>(layers) + 1, "the output's losses");
  }
  return places;
}

}  // namespace

std::string name_not_finite(TrainingModel& model, const ProcessMesh& mesh,
                            const TrainingModel::FillPass& fill, bool documents,
                            ExecutionContext& context) {
  Communicator& world = mesh.world();
  Stream& stream = context.stream;
  const std::string of_weights = weights(model.parameters(), context).text(world, stream);
  const std::string of_gradients = gradients(model.parameters(), context).text(world, stream);
  const std::string of_activations =
      activations(model, world.rank(), fill, documents, context).text(world, stream);
  return fmt::format("weights: {}; activations: {}; gradients: {}", of_weights, of_activations,
                     of_gradients);
}

}  // namespace polymoe
