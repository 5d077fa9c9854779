// SPDX-License-Identifier: Apache-2.0
// What `polymoe doctor` finds out about the places that ranks run in, and what it makes of it.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/files/json.h"

namespace polymoe {

/// A number that was measured at one place and should be much the same at all.
struct Figure {
  std::string name;   // "product"; figures of one name are compared
  std::string unit;   // "GFLOP/s"
  std::string where;  // "rank 3 (node7)", "ranks 3, 5", "node7"
  double value = 0.0;
  bool more_is_better = true;
};

/// What one rank found out. Facts are keys and values that must be the same on all ranks; problems
/// are wrong wherever they are found.
struct Examination {
  std::string where;  // "rank 3 (node7)"
  std::vector<Figure> figures;
  std::vector<std::pair<std::string, std::string>> facts;
  std::vector<std::string> problems;
  std::vector<std::string> remarks;  // no problems, for whoever reads it all
};

/// One object; read back it is the same. Throws InvalidArgument on another one.
Json to_json(const Examination& examination);
Examination examination_of(const Json& json);

/// Facts whose keys begin so are versions of libraries.
inline const std::string library_fact = "library ";

/// Figures of one name, put together.
struct FigureSummary {
  std::string name;
  std::string unit;
  std::size_t count = 0;
  double median = 0.0;
  const Figure* worst = nullptr;
  const Figure* best = nullptr;
};

/// All of `name`, at least one.
FigureSummary summary_of(const std::vector<const Figure*>& figures);

/// Each figure that is worse than the median of its name by more than `tolerance` (0.1 = a tenth),
/// each fact that a minority of ranks has another value of, and each problem: a line each.
std::vector<std::string> findings(const std::vector<Examination>& ranks, double tolerance);

/// For a person: a table of figures, facts, remarks, then the findings.
std::string examination_text(const std::vector<Examination>& ranks,
                             const std::vector<std::string>& findings);

/// For a program: every figure, fact, remark and finding.
Json examination_json(const std::vector<Examination>& ranks,
                      const std::vector<std::string>& findings, double tolerance);

}  // namespace polymoe
