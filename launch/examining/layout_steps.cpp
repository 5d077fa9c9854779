// SPDX-License-Identifier: Apache-2.0
#include "launch/examining/layout_steps.h"

#include <fmt/core.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "launch/config/config.h"
#include "launch/config/schedule.h"
#include "launch/config/step_shares.h"
#include "launch/data/read_ahead.h"
#include "launch/data/token_rows.h"
#include "launch/data/training_data.h"
#include "launch/machine/expert_nodes.h"
#include "launch/step/arena_size.h"
#include "launch/step/training_model.h"
#include "parallel/checkpoint/stored_values.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/device_world.h"
#include "parallel/communication/local/local_communicator.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "parallel/parameters/sharded_optimizer.h"
#include "runtime/context.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/execution.h"
#include "runtime/random.h"
#include "runtime/stream.h"

namespace polymoe {
namespace {

constexpr std::string_view parameter_kind = "parameter/";

/// This rank's samples of each step.
class Samples {
 public:
  Samples(const Config& config, std::int64_t steps, const StepShares& shares, Communicator& world)
      : config_(config), world_(world) {
    for (std::int64_t pass = 0; pass < shares.passes; ++pass) {
      const SequenceRange share = shares.of(pass, world.rank());
      for (std::int64_t i = 0; i < share.count; ++i) own_.push_back(share.first + i);
    }
    if (config.data.train.empty()) return;
    data_.emplace(config, world);
    ahead_.emplace(data_->train(), ReadAhead::Settings{.first = 0,
                                                       .per_step = config.train.global_batch,
                                                       .last = steps * config.train.global_batch,
                                                       .samples = own_});
  }

  /// Collective.
  void next() {
    if (ahead_) {
      step_ = ahead_->next();
    } else {
      draw();
    }
    counted_.reset();
    if (!data_ || !data_->train().masked()) return;
    Stream host(Device::cpu());
    std::array<std::int64_t, 2> rows{step_.predicted, step_.padding};
    world_.all_reduce(Tensor(rows.data(), {rows.size()}, DType::i64, Device::cpu()), Reduction::sum,
                      host);
    counted_ = {.predicted = std::max<std::int64_t>(rows[0], 1), .padding = rows[1]};
  }
  ReadAhead::Step& step() { return step_; }
  std::optional<TrainingModel::CountedRows> counted() const { return counted_; }

 private:
  /// Tokens are a function of a sample's number.
  void draw() {
    static const RandomStream random(1, "tokens of layouts");
    const std::int64_t length = config_.model.context;
    step_.tokens.clear();
    step_.targets.clear();
    for (const std::int64_t own : own_) {
      const std::int64_t begin = (drawn_ * config_.train.global_batch + own) * (length + 1);
      for (std::int64_t i = 0; i <= length; ++i) {
        const auto token =
            static_cast<std::int32_t>(random.bits(static_cast<std::uint64_t>(begin + i)) %
                                      static_cast<std::uint64_t>(config_.model.vocab));
        if (i < length) step_.tokens.push_back(token);
        if (i > 0) step_.targets.push_back(token);
      }
    }
    if (config_.data.keeps_documents()) step_.document_starts.assign(step_.tokens.size(), 0);
    ++drawn_;
  }

  const Config& config_;
  Communicator& world_;
  std::vector<std::int64_t> own_;
  std::optional<TrainingData> data_;
  std::optional<ReadAhead> ahead_;
  std::int64_t drawn_ = 0;
  ReadAhead::Step step_;
  std::optional<TrainingModel::CountedRows> counted_;
};

/// A rank's part of a tensor, on its way to rank 0: a line "NAME SEGMENT SIZE BEGIN COUNT", then
/// COUNT floats.
void append_piece(const TensorPiece& piece, int segment, Stream& stream, std::string& text) {
  text += fmt::format("{} {} {} {} {}\n", piece.name, segment, piece.shape.elements(), piece.begin,
                      piece.data.elements());
  HostPassage(stream).write(piece.held(), DType::f32, [&](const Tensor& part) {
    text.append(static_cast<const char*>(part.raw()), part.bytes());
  });
}

/// The tensors that the ranks' pieces make up, by segment and name.
std::vector<WholeTensor> put_together(const std::vector<std::string>& texts, bool last_first) {
  std::map<std::pair<int, std::string>, WholeTensor> tensors;
  for (const std::string& text : texts) {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      std::istringstream line(text.substr(at, end - at));
      std::string name;
      int segment = 0;
      std::size_t size = 0, begin = 0, count = 0;
      line >> name >> segment >> size >> begin >> count;
      WholeTensor& tensor = tensors[{last_first ? -segment : segment, name}];
      tensor.name = name;
      tensor.segment = segment;
      tensor.values.resize(size);
      if (count > 0)
        std::memcpy(tensor.values.data() + begin, text.data() + end + 1, count * sizeof(float));
      at = end + 1 + count * sizeof(float);
    }
  }
  std::vector<WholeTensor> ordered;
  for (auto& [key, tensor] : tensors) ordered.push_back(std::move(tensor));
  return ordered;
}

/// Each element of the gradient on one rank: the slices that ranks own after the reduction.
std::string own_gradients(const ParameterStore& store, Stream& stream) {
  std::string text;
  for (const ParameterScope scope : all_parameter_scopes) {
    if (!store.gradients(scope).defined()) continue;
    for (int segment = 0; segment < store.segments(); ++segment) {
      for (const LogicalRange& range : store.logical_ranges(scope, store.owned(scope, segment))) {
        append_piece(
            {.name = range.tensor->name,
             .shape = range.tensor->shape,
             .begin = range.tensor_begin,
             .data = store.gradients(scope).rows(range.flat_begin, range.flat_begin + range.count)},
            segment, stream, text);
      }
    }
  }
  return text;
}

std::string own_parameters(const TrainingModel& model, const ShardedOptimizer& optimizer,
                           Stream& stream) {
  std::map<std::string, int> segments;
  for (const Parameter& parameter : model.parameters().parameters())
    for (const LogicalTensor& tensor : parameter.logical) segments[tensor.name] = parameter.segment;
  std::string text;
  for (TensorPiece& piece : optimizer.pieces_to_save()) {
    if (!piece.name.starts_with(parameter_kind)) continue;
    piece.name.erase(0, parameter_kind.size());
    append_piece(piece, segments.at(piece.name), stream, text);
  }
  return text;
}

}  // namespace

void run_layout(const Config& config, std::int64_t steps, std::unique_ptr<Communicator> world,
                const LayoutRank& place, const std::function<void(const LayoutStep&)>& show) {
  omp_set_num_threads(place.threads);
  const int node_ranks = node_ranks_of(config.parallel, *world);
  DeviceWorld devices =
      make_device_world(std::move(world), place.device,
                        {.share_devices = place.share_gpus, .timeout_seconds = config.run.timeout});
  ProcessMesh mesh(std::move(devices.communicator), config.parallel.expert, node_ranks);
  const std::size_t capacity = training_arena_bytes(
      config, mesh,
      {.device = place.device, .device_sharers = place.device_sharers, .threads = place.threads});
  TrainingModel model(config, mesh, place.device);
  Execution execution({.device = place.device, .capacity = capacity});
  ExecutionContext& context = execution.context();
  model.optimizer().initialize(config.train.seed, context.stream);
  const LearningRate rate(config.optimizer, std::max(config.train.steps, steps),
                          config.train.global_batch * config.model.context);
  Samples samples(config, steps, model.shares(), mesh.world());
  for (std::int64_t step = 1; step <= steps; ++step) {
    samples.next();
    std::int64_t next = 0;
    const auto fill = [&](std::int64_t pass, const TokenRows& to) {
      const std::int64_t count =
          model.shares().of(pass, mesh.world().rank()).count * config.model.context;
      const TokenRows from = samples.step().from(next);
      std::copy_n(from.tokens, count, to.tokens);
      std::copy_n(from.targets, count, to.targets);
      if (to.document_starts != nullptr)
        std::copy_n(from.document_starts, count, to.document_starts);
      next += count;
    };
    LayoutStep made{.step = step, .loss = 0.0, .gradients = {}, .parameters = {}};
    made.loss = model.forward_backward(fill, model.shares().passes, context, samples.counted())
                    .cross_entropy;
    context.stream.synchronize();
    mesh.world().check();
    mesh.world().all_reduce(Tensor(&made.loss, {1}, DType::f64, Device::cpu()), Reduction::sum,
                            context.stream);
    made.gradients = put_together(
        gather_text(own_gradients(model.parameters(), context.stream), mesh.world()), true);
    model.update(model.gradient_norm(context), rate.at(step), context);
    model.model().finish_step(context);
    context.stream.synchronize();
    made.parameters = put_together(
        gather_text(own_parameters(model, model.optimizer(), context.stream), mesh.world()), false);
    on_first_rank(mesh.world(), [&] { show(made); });
  }
  mesh.shutdown();
}

void run_layout_on_threads(const Config& config, std::int64_t steps, int ranks,
                           const std::function<LayoutRank(int rank)>& place_of,
                           const std::function<void(const LayoutStep&)>& show) {
  auto worlds = make_local_communicators(ranks, config.run.timeout);
  std::vector<std::exception_ptr> failures(worlds.size());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back(
        [&, rank, own = std::move(worlds[static_cast<std::size_t>(rank)])]() mutable {
          failures[static_cast<std::size_t>(rank)] =
              failure_of([&] { run_layout(config, steps, std::move(own), place_of(rank), show); });
        });
  for (std::thread& thread : threads) thread.join();
  std::exception_ptr lost_peer;
  for (const std::exception_ptr& failure : failures) {
    if (!failure) continue;
    try {
      std::rethrow_exception(failure);
    } catch (const CommunicationError&) {
      lost_peer = failure;  // a peer's failure made it
    }
  }
  if (lost_peer) std::rethrow_exception(lost_peer);
}

}  // namespace polymoe
