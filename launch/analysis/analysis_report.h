// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/analysis/token_analysis.h"
#include "launch/analysis/weight_analysis.h"
#include "launch/data/tokenizer.h"
#include "launch/reports/page.h"
#include "runtime/files/json.h"

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

/// All figures. Spectra are given at up to 64 places, the first and the last among them. Texts of
/// tokens need the tokenizer; null: ids alone.
Json analysis_json(const Analysis& analysis, const Tokenizer* tokenizer);

/// The analysis as pictures and tables.
Page analysis_page(const Analysis& analysis, const Tokenizer* tokenizer);

}  // namespace polymoe
