// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/studies/cell_result.h"
#include "launch/studies/comparison.h"
#include "launch/studies/study.h"
#include "runtime/files/json.h"

namespace polymoe {

/// A line per cell but trunks: values, sizes, compute, losses, state. What `polymoe scale` reads.
std::string runs_csv(const Study& study, const std::vector<CellResult>& results);

/// Groups over seeds, differences from the baseline, states; a number that is not known is null.
Json results_json(const Study& study, const std::vector<CellResult>& results,
                  const Comparison& comparison);

/// What `polymoe study report` prints.
std::string report_text(const Study& study, const std::vector<CellResult>& results,
                        const Comparison& comparison);

/// The page: curves, final losses, differences, cells. Throws InvalidArgument where gnuplot is not
/// installed.
std::string report_html(const Study& study, const std::vector<CellResult>& results,
                        const Comparison& comparison);

}  // namespace polymoe
