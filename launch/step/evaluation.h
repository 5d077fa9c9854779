// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "launch/data/document_ends.h"
#include "moe/language_model.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/context.h"
#include "runtime/files/token_file.h"
#include "runtime/progress.h"

namespace polymoe {

/// Cross-entropy over part of a token file, in nats.
struct Evaluation {
  bool complete = true;  // false: left early, and the sums are of no use
  double loss_sum = 0.0;
  std::int64_t tokens = 0;  // predicted ones

  double loss() const;  // mean
  double perplexity() const;
};

/// How a token file is cut for evaluation: consecutive windows of `context` predictions, stride
/// `context`, the last one shorter. The first token of the file is never predicted.
struct EvaluationWindows {
  std::int64_t context = 0;
  std::int64_t per_batch = 1;    // windows of one rank's pass
  std::int64_t max_windows = 0;  // only the first ones; 0 = all
  /// Attention and targets keep to the file's documents, which end there; null = they do not.
  const DocumentEnds* documents = nullptr;
  /// Asked before each pass, on every rank with the same answer: leave the rest? Empty = never.
  std::function<bool()> leave = {};
  ProgressOutput progress = {};  // for one of the ranks
};

/// The model's cross-entropy over `file`; the windows are split over the ranks, the result is the
/// same on every rank. Collective over the mesh: every rank joins every pass, with no sequences
/// once its windows have run out.
/// Throws InputFileError when the file has fewer than two tokens.
Evaluation evaluate(LanguageModel& model, const TokenFile& file, const EvaluationWindows& windows,
                    const ProcessMesh& mesh, ExecutionContext& context);

}  // namespace polymoe
