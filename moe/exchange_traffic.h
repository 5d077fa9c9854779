// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe {

/// What one rank's layer exchanged in backward passes, and the forward passes before them.
struct ExchangeTraffic {
  std::int64_t passes = 0;         // micro-batches
  std::int64_t leaving_rows = 0;   // of a dispatch: one per token and other rank
  std::int64_t leaving_slots = 0;  // the (token, expert) pairs that these serve
  std::int64_t expert_rows = 0;    // of this rank's experts
};

}  // namespace polymoe
