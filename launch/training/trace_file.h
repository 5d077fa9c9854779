// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/files/json.h"

namespace polymoe {

/// What was under way from a time to another; seconds since the trace began.
struct TraceSpan {
  std::string name;
  double begin = 0.0;
  double end = 0.0;
};

/// An operation of a group of ranks, on one of them.
struct TraceOperation {
  std::int64_t group = 0;     // the rank's number of it: the same on all ranks of a group
  std::string group_name;     // "world/1"
  std::int64_t sequence = 0;  // within the group
  std::string name;           // "all_to_all"
  std::int64_t bytes = 0;
  std::string place;  // of who posted it: "dispatch of layer 7, backward pass"
  double posted = 0.0, begin = 0.0, end = 0.0;
};

/// A rank's part of a trace.
struct RankTrace {
  std::string title;  // "rank 3 on node7, cuda:3"
  std::vector<TraceSpan> steps;
  std::vector<TraceSpan> host;    // phases, as the host comes to them
  std::vector<TraceSpan> stream;  // phases, as the GPU's stream does; empty on CPUs
  std::vector<TraceOperation> operations;

  std::string to_text() const;
  /// Reads what to_text() gave; throws Error on anything else.
  static RankTrace from_text(const std::string& text);
};

/// The text of a file for chrome://tracing and ui.perfetto.dev (JSON, Trace Event Format): a
/// process per rank with a track for its steps and host, one for its stream, and one for each
/// group; flow events link an operation of one rank with the same one of the others, from the first
/// that began it to the last.
std::string chrome_trace(const std::vector<RankTrace>& ranks);

}  // namespace polymoe
