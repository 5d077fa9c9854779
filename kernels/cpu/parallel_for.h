// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>

namespace polymoe::cpu {

/// body(i) for i in [0, count), spread over the threads as they become free; a single item leaves
/// the threads to what runs inside it. Which thread takes which item must not matter. The first
/// exception of a body is rethrown when all are done.
template <class Body>
void parallel_for(std::int64_t count, const Body& body) {
  // A region of one thread would be a level of its own, and libgomp starts new threads for every
  // region inside it.
  if (count == 1) return body(0);
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic, 1)
  for (std::int64_t i = 0; i < count; ++i) {
    try {
      body(i);
    } catch (...) {
#pragma omp critical(polymoe_parallel_for)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace polymoe::cpu
