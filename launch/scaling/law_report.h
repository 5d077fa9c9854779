// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/scaling/law.h"

namespace polymoe {

/// What `polymoe scale fit` prints: first how the largest size was predicted by the others, then
/// the law.
std::string law_text(const ScalingLaw& law, const std::optional<HeldOut>& held_out,
                     const std::vector<ScalingRun>& runs);

/// The page: loss against compute, residuals, parameters with their intervals. Throws
/// InvalidArgument where gnuplot is not installed.
std::string law_html(const ScalingLaw& law, const std::optional<HeldOut>& held_out,
                     const std::vector<ScalingRun>& runs);

/// "3.1234, 80 % in [3.10, 3.14], 95 % in [...]".
std::string prediction_text(const Prediction& prediction);

}  // namespace polymoe
