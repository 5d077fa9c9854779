// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polymoe {

/// Turns SIGUSR1 into a flag for as long as it lives: the request to commit a checkpoint and end
/// with exit code 85. mpirun forwards the signal to its ranks; a batch system sends it before it
/// takes a node back. At most one per process.
class PreemptionSignal {
 public:
  PreemptionSignal();
  ~PreemptionSignal();
  PreemptionSignal(const PreemptionSignal&) = delete;
  PreemptionSignal& operator=(const PreemptionSignal&) = delete;

  /// Whether the signal arrived since construction.
  bool raised() const;
};

}  // namespace polymoe
