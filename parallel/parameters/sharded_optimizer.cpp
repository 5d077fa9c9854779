// SPDX-License-Identifier: Apache-2.0
#include "parallel/parameters/sharded_optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <vector>

#include "kernels/adamw/adamw.h"
#include "kernels/reduction/reduction.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/arena.h"
#include "runtime/buffer.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"
#include "runtime/timeline.h"

namespace polymoe {
ShardedOptimizer::ShardedOptimizer(ParameterStore& store, const AdamWOptions& options)
    : store_(store), options_(options) {
  for (const ParameterScope scope : all_parameter_scopes) {
    Shard& shard = shards_[static_cast<std::size_t>(scope)];
    shard.runs.resize(static_cast<std::size_t>(store.segments()));
    std::int64_t elements = 0;
    for (int segment = 0; segment < store.segments(); ++segment) {
      shard.begin.push_back(elements);
      const ParameterStore::Range owned = store.owned(scope, segment);
      elements += owned.size();
      // A run takes the padding behind it along: zeros, which stay zeros.
      auto& runs = shard.runs[static_cast<std::size_t>(segment)];
      for (const LogicalRange& range : store.logical_ranges(scope, owned)) {
        const bool decay = range.parameter->decay;
        if (!runs.empty() && runs.back().decay == decay) continue;
        if (!runs.empty()) runs.back().range.end = range.flat_begin;
        runs.push_back({{range.flat_begin, owned.end}, decay});
      }
    }
    const DType dtype = store.values(scope).dtype();
    const DType moments = dtype == DType::f64 ? DType::f64 : options.moment_dtype;
    for (OwnedTensor& state : shard.state) state = OwnedTensor({elements}, moments, store.device());
    if (dtype == DType::bf16) shard.low = OwnedTensor({elements}, DType::u16, store.device());
  }
}

template <class Visit>
void ShardedOptimizer::for_each_owned(Visit visit) const {
  for (const ParameterScope scope : all_parameter_scopes) {
    const Shard& state = shard(scope);
    for (int segment = 0; segment < store_.segments(); ++segment) {
      const ParameterStore::Range owned = store_.owned(scope, segment);
      const std::int64_t shift = state.begin[static_cast<std::size_t>(segment)] - owned.begin;
      for (const LogicalRange& range : store_.logical_ranges(scope, owned))
        visit(state, scope, range, range.flat_begin + shift);
    }
  }
}

void ShardedOptimizer::initialize(std::uint64_t seed, Stream& stream) {
  store_.initialize(seed, stream);
  for_each_owned(
      [&](const Shard& state, ParameterScope scope, const LogicalRange& range, std::int64_t begin) {
        if (!state.low->defined()) return;
        const std::int64_t flat_end = range.flat_begin + range.count;
        ParameterStore::initial_values(range, seed,
                                       store_.values(scope).rows(range.flat_begin, flat_end),
                                       state.low->rows(begin, begin + range.count), stream);
      });
}

std::size_t ShardedOptimizer::bytes() const {
  std::size_t total = 0;
  for (const Shard& shard : shards_) {
    for (const OwnedTensor& state : shard.state) total += state->bytes();
    if (shard.low->defined()) total += shard.low->bytes();
  }
  return total;
}

double ShardedOptimizer::gradient_norm(Communicator& world, ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::optimizer);
  const Arena::Scope scratch(context.arena);
  const Tensor squares =
      context.arena.allocate({std::int64_t{parameter_scopes} * store_.segments()}, DType::f64);
  set_zero(squares, context.stream);
  std::int64_t next = 0;
  for (const ParameterScope scope : all_parameter_scopes) {
    for (int segment = 0; segment < store_.segments(); ++segment, ++next) {
      const ParameterStore::Range owned = store_.owned(scope, segment);
      if (owned.size() == 0) continue;
      sum_of_squares(store_.gradients(scope).rows(owned.begin, owned.end),
                     squares.rows(next, next + 1), context.arena, context.stream);
    }
  }
  const std::vector<double> own = host_values<double>(squares, context.stream);
  double total = std::accumulate(own.begin(), own.end(), 0.0);
  world.all_reduce(Tensor(&total, {1}, DType::f64, Device::cpu()), Reduction::sum, context.stream);
  return std::sqrt(total);
}

void ShardedOptimizer::step(double learning_rate, double gradient_scale,
                            ExecutionContext& context) {
  const Timeline::Scope phase(context.timeline, Phase::optimizer);
  ++steps_done_;
  const AdamWStep step{.learning_rate = learning_rate,
                       .beta1 = options_.beta1,
                       .beta2 = options_.beta2,
                       .epsilon = options_.epsilon,
                       .weight_decay = options_.weight_decay,
                       .gradient_scale = gradient_scale,
                       .step = steps_done_};
  std::vector<Pending> gathers;
  for (int segment = 0; segment < store_.segments(); ++segment) {
    for (const ParameterScope scope : all_parameter_scopes) {
      const ParameterStore::Range bucket = store_.bucket(scope, segment);
      if (bucket.size() == 0) continue;
      update_segment(scope, segment, step, context.stream);
      gathers.push_back(store_.group(scope).start_all_gather(
          store_.values(scope).rows(bucket.begin, bucket.end), context.stream));
    }
  }
  for (Pending& gather : gathers) gather.wait(context.stream);
}

void ShardedOptimizer::update_segment(ParameterScope scope, int segment, const AdamWStep& step,
                                      Stream& stream) {
  const auto index = static_cast<std::size_t>(segment);
  const Shard& moments = shard(scope);
  const std::int64_t shift = moments.begin[index] - store_.owned(scope, segment).begin;
  for (const Run& run : moments.runs[index]) {
    const auto [begin, end] = run.range;
    AdamWStep run_step = step;
    if (!run.decay) run_step.weight_decay = 0.0;
    const Tensor values = store_.values(scope).rows(begin, end);
    const auto state = [&](const OwnedTensor& all) {
      return all->rows(begin + shift, end + shift);
    };
    OptimizerState states;
    std::transform(moments.state.begin(), moments.state.end(), states.begin(), state);
    adamw(run_step, store_.gradients(scope).rows(begin, end), values, states,
          moments.low->defined() ? state(moments.low) : Tensor(), stream);
  }
}

namespace {

TensorPiece piece_of(std::string_view kind, const LogicalRange& range, const Tensor& flat,
                     std::int64_t begin) {
  return {.name = name_of_kind(kind, range.tensor->name),
          .shape = range.tensor->shape,
          .begin = range.tensor_begin,
          .data = flat.rows(begin, begin + range.count)};
}

/// Of a slice that this rank owns, which begins at `begin` in the shard's tensors: its masters.
TensorPiece master_piece(const LogicalRange& range, const Tensor& values, const OwnedTensor& low,
                         std::int64_t begin) {
  TensorPiece piece = piece_of(parameter_kind, range, values, range.flat_begin);
  if (low->defined()) piece.low = low->rows(begin, begin + range.count);
  return piece;
}

}  // namespace

bool is_optimizer_state(std::string_view tensor) {
  return std::any_of(optimizer_state_kinds.begin(), optimizer_state_kinds.end(),
                     [&](std::string_view kind) { return tensor.starts_with(kind); });
}

std::vector<TensorPiece> value_pieces(const ParameterStore& store) {
  std::vector<TensorPiece> pieces;
  for (const ParameterScope scope : all_parameter_scopes) {
    const Tensor& values = store.values(scope);
    for (const LogicalRange& range : store.logical_ranges(scope, {0, values.elements()}))
      pieces.push_back(piece_of(parameter_kind, range, values, range.flat_begin));
  }
  return pieces;
}

std::vector<TensorPiece> ShardedOptimizer::pieces_to_save() const {
  std::vector<TensorPiece> pieces;
  for_each_owned(
      [&](const Shard& shard, ParameterScope scope, const LogicalRange& range, std::int64_t begin) {
        pieces.push_back(master_piece(range, store_.values(scope), shard.low, begin));
        for (std::size_t i = 0; i < shard.state.size(); ++i)
          pieces.push_back(piece_of(optimizer_state_kinds[i], range, *shard.state[i], begin));
      });
  return pieces;
}

std::vector<TensorPiece> ShardedOptimizer::pieces_to_load(bool with_moments) const {
  std::vector<TensorPiece> pieces = value_pieces(store_);
  for_each_owned(
      [&](const Shard& shard, ParameterScope scope, const LogicalRange& range, std::int64_t begin) {
        if (shard.low->defined())
          pieces.push_back(master_piece(range, store_.values(scope), shard.low, begin));
        if (!with_moments) return;
        for (std::size_t i = 0; i < shard.state.size(); ++i)
          pieces.push_back(piece_of(optimizer_state_kinds[i], range, *shard.state[i], begin));
      });
  return pieces;
}

}  // namespace polymoe
