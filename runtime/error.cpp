// SPDX-License-Identifier: Apache-2.0
#include "runtime/error.h"

#include <exception>
#include <string>

namespace polymoe {

ErrorKind kind_of(const std::exception& error) {
  const auto* own = dynamic_cast<const Error*>(&error);
  return own == nullptr ? ErrorKind::unforeseen : own->kind();
}

void throw_error(ErrorKind kind, const std::string& path, const std::string& cause) {
  switch (kind) {
    case ErrorKind::invalid_argument:
      throw InvalidArgument(cause);
    case ErrorKind::input_file:
      throw InputFileError(path, cause);
    case ErrorKind::output_file:
      throw OutputFileError(path, cause);
    case ErrorKind::device:
      throw DeviceError(cause);
    case ErrorKind::communication:
      throw CommunicationError(cause);
    case ErrorKind::not_finite:
      throw NotFiniteError(cause);
    case ErrorKind::unforeseen:
      break;
  }
  throw Error(cause);
}

}  // namespace polymoe
