// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace polymoe {

struct RunReport {
  std::string html;
  int figures = 0;
  std::vector<std::string> notes;  // what the reader should know, a line each
};

/// A page about runs, from the files in their directories: what they reached, loss, validation,
/// learning rate, gradient norm, throughput, where the time goes, routing and the load of experts.
/// Throws InputFileError where a directory is not that of a run, or a file is damaged;
/// InvalidArgument where gnuplot is not installed.
RunReport report_runs(const std::vector<std::filesystem::path>& runs);

}  // namespace polymoe
