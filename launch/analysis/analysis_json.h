// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/analysis/analysis.h"
#include "launch/data/tokenizer.h"
#include "runtime/files/json.h"

namespace polymoe {

/// All figures. Spectra are given at up to 64 places, the first and the last among them. Texts of
/// tokens need the tokenizer; null: ids alone.
Json analysis_json(const Analysis& analysis, const Tokenizer* tokenizer);

}  // namespace polymoe
