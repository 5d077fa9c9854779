// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <string>

#include "runtime/error.h"

namespace polymoe::mpi {

/// Throws CommunicationError with MPI's own words unless `code` is MPI_SUCCESS.
inline void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  text.resize(static_cast<std::size_t>(length));
  throw CommunicationError(std::string(call) + ": " + text);
}

}  // namespace polymoe::mpi
