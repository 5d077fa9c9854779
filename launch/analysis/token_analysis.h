// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "launch/analysis/expert_similarity.h"
#include "moe/language_model.h"
#include "runtime/context.h"
#include "runtime/files/token_file.h"
#include "runtime/progress.h"

namespace polymoe {

/// How the tokens of a file went through one layer with experts.
struct LayerRouting {
  std::int64_t layer = 0;
  std::int64_t experts = 0;
  std::vector<std::int64_t> expert_tokens = {};  // [experts]
  std::vector<std::int64_t> together = {};       // [experts, experts]: tokens that both took
  double entropy = 0.0;                          // of the shares of slots, in nats
  /// Per expert the ids that it took most often, with how often, the most frequent first.
  std::vector<std::vector<std::pair<std::int32_t, std::int64_t>>> top_tokens = {};
  std::vector<std::int32_t> choices = {};  // [tokens, top_k]
  std::int64_t top_k = 0;
};

/// What an activation saw in one layer and made of it.
struct LayerActivation {
  std::int64_t layer = 0;
  std::vector<double> x = {};        // centres of the bins
  std::vector<double> density = {};  // of the pre-activations (of swiglu: of its gate)
  std::vector<double> y = {};        // mean result in each bin; NaN in an empty one
  double mean = 0.0, deviation = 0.0;
};

struct TokenAnalysis {
  std::int64_t tokens = 0;
  double loss = 0.0;
  std::int64_t states = 0;              // the embedding and every layer
  std::vector<double> similarity = {};  // [states, states]: mean cosine of a token's hidden states
  std::vector<LayerRouting> routing = {};         // of layers with experts
  std::vector<LayerActivation> activations = {};  // of every layer
  /// How alike is what the experts of each layer make of a sample of the tokens, see
  /// ExpertOutputs, and how many tokens that is.
  std::vector<ExpertSimilarity> outputs = {};
  std::int64_t output_tokens = 0;
};

struct TokenAnalysisOptions {
  std::int64_t max_tokens = 0;
  std::int64_t windows_per_batch = 0;  // 0: as many as make up 4096 tokens
};

/// Runs the model over the first windows of a token file and looks inside, on one rank.
/// Throws InputFileError when the file is shorter than one window.
TokenAnalysis analyze_tokens(LanguageModel& model, const TokenFile& file,
                             const TokenAnalysisOptions& options, ExecutionContext& context,
                             const ProgressOutput& progress);

/// The share of the choices (token, layer) that two models of one shape have in common, per layer:
/// how far routing has settled between two checkpoints. Throws InvalidArgument where the analyses
/// are not of the same tokens and experts.
std::vector<double> routing_saturation(const TokenAnalysis& before, const TokenAnalysis& after);

}  // namespace polymoe
