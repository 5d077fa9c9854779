// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nccl.h>

#include <algorithm>
#include <string>

#include "runtime/error.h"

namespace polymoe::nccl {

/// NCCL's own words for a result, in one line. `communicator` may be null.
inline std::string describe(ncclResult_t result, ncclComm_t communicator) {
  std::string text = std::string("NCCL: ") + ncclGetErrorString(result);
  const char* const last = ncclGetLastError(communicator);
  if (last != nullptr && *last != '\0') text += std::string(" (") + last + ")";
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

/// Throws CommunicationError unless `result` is success, or progress of a non-blocking call.
inline void check(ncclResult_t result, const char* call) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw CommunicationError(std::string(call) + ": " + describe(result, nullptr));
}

}  // namespace polymoe::nccl
