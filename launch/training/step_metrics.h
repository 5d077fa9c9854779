// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launch/training/waiting.h"
#include "moe/routing_statistics.h"
#include "runtime/files/json.h"
#include "runtime/files/tensorboard_writer.h"
#include "runtime/timeline.h"

namespace polymoe {

/// What a step is reported by: a row of metrics.jsonl, and the scalars of TensorBoard.
struct StepMetrics {
  std::int64_t step = 0;    // done, from 1
  std::int64_t tokens = 0;  // predicted since the start of training
  double loss = 0.0;        // cross-entropy, mean over the global batch
  double aux_loss = 0.0;    // load balance, coefficient included
  double z_loss = 0.0;      // likewise
  double lr = 0.0;
  double grad_norm = 0.0;              // before clipping
  std::int64_t skipped_steps = 0;      // not applied, since the start of training
  std::optional<double> z_score = {};  // of grad_norm, where train.spike looks at it
  double tokens_per_second = 0.0;
  double mfu = 0.0;                 // share of the matrix-product rate measured at start
  double checkpoint_seconds = 0.0;  // that rank 0 waited for checkpoints since the row before
  std::array<double, static_cast<std::size_t>(Phase::count)> seconds{};  // of this rank
  std::vector<RoutingStatistics> routing = {};                           // per MoE layer
  std::optional<double> valid_loss = {};
  std::optional<WaitingReport> waiting = {};                      // in steps of a report on ranks
  Json ranks = {};                                                // likewise: what each rank did
  std::vector<std::pair<std::string, double>> valid_losses = {};  // by the files' names
  std::vector<std::pair<std::string, double>> scores = {};        // "arc_easy/acc", ...
};

/// The row of metrics.jsonl. The values of the MoE layers are arrays, a number per layer.
Json metrics_row(const StepMetrics& metrics);

/// What evaluations add to that row, with its step and tokens.
Json evaluation_row(const StepMetrics& metrics);

/// The row of experts.jsonl: {"step", "tokens", "layers": [l, ...], "expert_tokens": [[...], ...]},
/// the slots that each expert got in this step, over all ranks and before any is dropped.
Json experts_row(const StepMetrics& metrics);

/// Every number of the row with its TensorBoard tag: "train/loss", "layers.3/routing_entropy", ...
std::vector<TensorBoardWriter::Scalar> metrics_scalars(const StepMetrics& metrics);
/// Of them those of evaluations.
std::vector<TensorBoardWriter::Scalar> evaluation_scalars(const StepMetrics& metrics);

}  // namespace polymoe
