// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "parallel/checkpoint/save_observer.h"

namespace polymoe {

/// Told what a rank of a training run turns to. What it throws counts as a failure of the rank
/// there: tests inject faults with it.
class RunObserver : public SaveObserver {
 public:
  void reached(SavePoint) override {}
  /// In the words of the ledger, on the rank's main thread: "preparing" in step 0, then "forward",
  /// "exchange_wait", "saving", "validating, forward", ... May throw only where something begins,
  /// not where the rank comes back to it.
  virtual void turns_to(std::int64_t step, const std::string& what) = 0;
};

}  // namespace polymoe
