// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/scaling/form.h"

namespace polymoe {

/// What counts as the N of a law.
enum class ParameterCount : std::uint8_t {
  active,                // that a token meets
  active_no_embeddings,  // without embedding and output projection
  total,
  total_no_embeddings,
};

/// "active", "active-no-embeddings", ...; nothing for other texts.
std::optional<ParameterCount> parse_parameter_count(const std::string& text);
const char* name_of(ParameterCount count);

/// A table of runs: what `polymoe study report` writes as runs.csv, or with its columns.
struct RunTable {
  std::string name;  // for errors
  std::string text;
};

/// Finished runs that did not diverge; by validation loss where every one of them has it. Only
/// those of one `activation` unless it is empty. Throws InputFileError on a missing column, a line
/// of another length, a number that is none or not positive; InvalidArgument where tables mix
/// activations and none was chosen.
std::vector<ScalingRun> read_scaling_runs(const std::vector<RunTable>& tables, ParameterCount count,
                                          const std::string& activation);

/// The fields of a line of comma-separated values, quotes undone.
std::vector<std::string> split_csv_line(const std::string& line);

}  // namespace polymoe
