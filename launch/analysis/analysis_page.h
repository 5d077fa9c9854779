// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/analysis/analysis.h"
#include "launch/data/tokenizer.h"
#include "launch/reports/page.h"

namespace polymoe {

/// The analysis as pictures and tables.
Page analysis_page(const Analysis& analysis, const Tokenizer* tokenizer);

}  // namespace polymoe
