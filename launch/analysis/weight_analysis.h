// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "launch/analysis/expert_similarity.h"
#include "launch/config/config.h"
#include "parallel/checkpoint/reader.h"
#include "runtime/progress.h"

namespace polymoe {

/// A matrix of a feed-forward and its singular values.
struct MatrixSpectrum {
  std::string name = {};  // "layers.3.experts.17.up"; of swiglu also "....gate"
  std::int64_t layer = 0;
  std::int64_t expert = -1;  // -1: dense, or shared
  std::string part = {};     // "up", "gate", "down"
  std::int64_t rows = 0, columns = 0;
  std::vector<double> values = {};  // largest first
  double effective_rank = 0.0;
};

/// An activation's coefficients in the checkpoints of a run.
struct CoefficientHistory {
  std::string name = {};  // "layers.3.experts", "layers.3.experts.17", "layers.0.feed_forward"
  std::int64_t layer = 0;
  std::int64_t expert = -1;  // -1: one set for all
  std::vector<std::int64_t> steps = {};
  std::vector<std::vector<double>> values = {};  // per step
};

/// The spectra of every feed-forward matrix. One matrix is in memory at a time.
std::vector<MatrixSpectrum> matrix_spectra(const CheckpointReader& checkpoint,
                                           const ModelConfig& model,
                                           const ProgressOutput& progress);

/// How alike the weights of experts are, all matrices of one as one vector, in every layer with
/// experts, in bounded memory.
std::vector<ExpertSimilarity> expert_similarities(const CheckpointReader& checkpoint,
                                                  const ModelConfig& model,
                                                  const ProgressOutput& progress);

/// From every checkpoint beside `checkpoint` in its directory, up to its step. Empty where the
/// activation has no coefficients.
std::vector<CoefficientHistory> coefficient_histories(const CheckpointReader& checkpoint);

}  // namespace polymoe
