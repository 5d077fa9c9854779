// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "parallel/communication/local/local_communicator.h"
#include "runtime/error.h"

namespace polymoe {

/// Runs `function` on `ranks` threads, each with its communicator of one local group, and waits for
/// all. A rank that throws leaves the group, so the others end with CommunicationError instead of
/// hanging; what is thrown here is the first rank's cause that is not such a consequence.
inline void run_ranks(int ranks,
                      const std::function<void(std::unique_ptr<Communicator>)>& function) {
  auto communicators = make_local_communicators(ranks);
  std::vector<std::exception_ptr> errors(communicators.size());
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < communicators.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        function(std::move(communicators[rank]));
      } catch (...) {
        errors[rank] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::exception_ptr consequence;
  for (const std::exception_ptr& error : errors) {
    if (error == nullptr) continue;
    try {
      std::rethrow_exception(error);
    } catch (const CommunicationError&) {
      if (consequence == nullptr) consequence = error;
    }
  }
  if (consequence != nullptr) std::rethrow_exception(consequence);
}

}  // namespace polymoe
