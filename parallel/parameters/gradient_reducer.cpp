// SPDX-License-Identifier: Apache-2.0
#include "parallel/parameters/gradient_reducer.h"

#include <algorithm>
#include <cstddef>
#include <string>

#include "parallel/communication/communicator.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/error.h"
#include "runtime/stream.h"

namespace polymoe {

GradientReducer::GradientReducer(ParameterStore& store)
    : store_(store), started_(static_cast<std::size_t>(store.segments()), false) {}

void GradientReducer::start(int segment, Stream& stream) {
  const auto index = static_cast<std::size_t>(segment);
  if (segment < 0 || index >= started_.size() || started_[index]) {
    throw InvalidArgument("gradient reduction of segment " + std::to_string(segment) + " of " +
                          std::to_string(started_.size()) + ": each is started once a step");
  }
  started_[index] = true;
  for (int s = 0; s < parameter_scopes; ++s) {
    const auto scope = static_cast<ParameterScope>(s);
    const ParameterStore::Range bucket = store_.bucket(scope, segment);
    if (bucket.size() == 0) continue;
    pending_.push_back(store_.group(scope).start_reduce_scatter(
        store_.gradients(scope).rows(bucket.begin, bucket.end), stream));
  }
}

void GradientReducer::finish(Stream& stream) {
  const auto missing = std::find(started_.begin(), started_.end(), false);
  if (missing != started_.end()) {
    throw InvalidArgument("gradient reduction of segment " +
                          std::to_string(missing - started_.begin()) + " was never started");
  }
  for (Pending& pending : pending_) pending.wait(stream);
  pending_.clear();
  std::fill(started_.begin(), started_.end(), false);
}

}  // namespace polymoe
