// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/analysis/expert_similarity.h"
#include "launch/analysis/token_analysis.h"
#include "launch/analysis/weight_analysis.h"
#include "launch/data/tokenizer.h"

namespace polymoe {

/// Everything that was found out about a checkpoint.
struct Analysis {
  std::string checkpoint = {};
  std::int64_t step = 0;
  std::string activation = {};
  std::vector<MatrixSpectrum> spectra = {};
  std::vector<ExpertSimilarity> similarities = {};
  std::vector<CoefficientHistory> coefficients = {};
  std::optional<TokenAnalysis> tokens = {};
  std::vector<double> saturation = {};  // per layer with experts; empty: not compared
};

/// Up to `most` places of a row of `count`, evenly apart, the first and the last among them.
std::vector<std::size_t> shown_places(std::size_t count, std::size_t most);

/// A token as text on one line; "#ID" without a tokenizer, and of a token without text.
std::string token_text(std::int32_t id, const Tokenizer* tokenizer);

}  // namespace polymoe
