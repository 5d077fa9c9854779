// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polymoe {

/// How far a save has come on a rank.
enum class SavePoint : std::uint8_t {
  staging,        // about to copy the pieces to host memory
  writing,        // a piece has been written to the shard
  before_rename,  // rank 0: every file is synced, the directory has not got its name
  after_rename,   // rank 0: it has
  retention,      // rank 0: an older checkpoint has lost its name and is about to be removed
};

/// Told of each point that a rank's save reaches, on the thread that reaches it. What it throws
/// counts as a failure at that point: tests inject faults with it.
class SaveObserver {
 public:
  virtual ~SaveObserver() = default;
  virtual void reached(SavePoint point) = 0;
};

inline void tell(SaveObserver* observer, SavePoint point) {
  if (observer != nullptr) observer->reached(point);
}

}  // namespace polymoe
