// SPDX-License-Identifier: Apache-2.0
// How ranks tell each other what they wrote or found, before or instead of an error.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "parallel/communication/communicator.h"

namespace polymoe {

/// What `body` throws, as text; empty when it returns. Errors must not leave a rank before its
/// peers know: they would wait for it.
template <class Body>
std::string error_of(Body body) {
  try {
    body();
    return "";
  } catch (const std::exception& error) {
    return error.what()[0] == '\0' ? "unknown error" : error.what();
  }
}

/// The text of every rank, on rank 0. Collective.
std::vector<std::string> gather_text(const std::string& text, Communicator& world);

/// The text of `root`, on every rank. Collective.
std::string broadcast_text(const std::string& text, int root, Communicator& world);

/// Runs `body` on every rank. Where it throws on some, every rank throws InputFileError: that of
/// the lowest such rank, what is none under `path`. Where it returns different numbers, every rank
/// throws InputFileError that `path` is not the same on all ranks. Collective.
void read_alike(const std::string& path, const std::function<std::int64_t()>& body,
                Communicator& world);

}  // namespace polymoe
