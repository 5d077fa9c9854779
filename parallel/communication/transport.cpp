// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/transport.h"

#include <sstream>

#include "runtime/error.h"

namespace polymoe {

void throw_timeout(int peer, const Deadline& deadline) {
  std::ostringstream text;
  text << "no answer from rank " << peer << " within " << deadline.timeout_seconds << " seconds";
  throw CommunicationError(text.str());
}

}  // namespace polymoe
