// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "launch/bench/exchange_cost.h"
#include "launch/bench/timing.h"
#include "launch/config/config.h"
#include "launch/step/memory_plan.h"
#include "launch/step/training_model.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"

namespace polymoe {

/// What a step's line in the table does not say.
struct StepDetails {
  double tokens_per_second = 0.0;  // of all ranks, by the median
  std::array<double, static_cast<std::size_t>(Phase::count)> seconds{};  // of this rank, mean
  ExchangeCost exchange = {};
  // Bytes of the rank with the most.
  std::int64_t peak_before = 0;  // the process without a model
  std::int64_t peak = 0;
};

/// The whole training step, and generation, of a model with its first values and random tokens.
class ModelBench {
 public:
  /// Makes the model. `document_tokens`: of each document, where the step keeps to documents.
  /// Collective over the mesh, as all that follows.
  ModelBench(const Config& config, std::int64_t document_tokens, const ProcessMesh& mesh,
             const MemoryPlan& plan, ExecutionContext& context);

  /// Runs two steps, after which the step's memory is known: before anything else takes memory.
  void measure_memory(ExecutionContext& context);

  /// After measure_memory. Floor: the operations of forward and backward pass, without
  /// recomputation; weights read by forward, backward and update, gradients written and read,
  /// moments read and written.
  BenchResult time_steps(ExecutionContext& context);
  /// What is known of the steps timed last.
  const StepDetails& details() const { return details_; }

  /// Token after token of so many texts of a rank with key/value caches, a token of each in a pass.
  /// Floor: the weights that these tokens meet, and the keys and values before them, read once; an
  /// addition and a multiplication by each weight that a token meets.
  BenchResult time_generation(std::int64_t texts, ExecutionContext& context);

 private:
  void step(ExecutionContext& context);

  const Config config_;
  const std::int64_t document_tokens_;
  const ProcessMesh& mesh_;
  const MemoryPlan plan_;
  StepDetails details_;
  TrainingModel training_;
  std::uint64_t drawn_ = 0;
};

}  // namespace polymoe
