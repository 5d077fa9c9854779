// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "parallel/communication/communicator.h"
#include "parallel/communication/ledger.h"

namespace polymoe {

/// Owns the process's use of MPI, with or without mpirun (then there is one rank). One per process.
/// The destructor leaves MPI as it is, because to finalise is to wait for the other ranks.
class MpiEnvironment {
 public:
  /// Throws CommunicationError when MPI cannot be called from several threads at once.
  MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Among the ranks that share this node's memory.
  int rank_on_node() const { return rank_on_node_; }
  int ranks_on_node() const { return ranks_on_node_; }
  /// "Open MPI v4.1.4, ...", one line.
  static std::string library_version();

  /// A communicator of all ranks. Collective; several may exist. `ledger`, where operations of it
  /// and of what is split from it are written down, outlives them. An operation whose peers do not
  /// answer for timeout_seconds throws CommunicationError.
  std::unique_ptr<Communicator> make_world(double timeout_seconds, Ledger* ledger = nullptr) const;
  std::unique_ptr<Communicator> make_world() const;

  /// The orderly, collective end, after the shutdown of all communicators.
  void finalize();
  /// Ends this process and all other ranks at once; mpirun returns `exit_code`.
  [[noreturn]] void abort(int exit_code) const;

 private:
  int rank_ = 0;
  int size_ = 1;
  int rank_on_node_ = 0;
  int ranks_on_node_ = 1;
};

}  // namespace polymoe
