// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "runtime/arena.h"
#include "runtime/stream.h"
#include "runtime/timeline.h"

namespace polymoe {

/// What an operation of a step runs on: order of work, memory within the step, clock.
struct ExecutionContext {
  Stream& stream;
  Arena& arena;
  Timeline& timeline;
};

}  // namespace polymoe
