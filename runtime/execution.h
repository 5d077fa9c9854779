// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/stream.h"
#include "runtime/timeline.h"

namespace polymoe {

/// Owns what an ExecutionContext points to: a stream, the arena of everything that lives within a
/// step on it, and the clock of the stream's work.
class Execution {
 public:
  /// On the arena's device. Throws DeviceError where it does not exist or has not the capacity.
  explicit Execution(const Arena::Options& arena)
      : stream_(arena.device), arena_(arena), timeline_(stream_) {}
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;

  ExecutionContext& context() { return context_; }
  Stream& stream() { return stream_; }
  Arena& arena() { return arena_; }
  Timeline& timeline() { return timeline_; }

 private:
  Stream stream_;
  Arena arena_;
  Timeline timeline_;
  ExecutionContext context_{stream_, arena_, timeline_};
};

}  // namespace polymoe
