// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>

namespace polymoe {

/// Base of every error that polymoe raises on purpose. `what()` is one line: what, where, which
/// value, what is allowed. launch/ maps each class to the process's exit code.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument, option or configuration value is not allowed. Exit code 64.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// An input file is missing, damaged or of another kind. Exit code 65.
class InputFileError : public Error {
 public:
  InputFileError(const std::string& path, const std::string& cause)
      : Error(path + ": " + cause), path_(path) {}
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Output could not be written. Exit code 74.
class OutputFileError : public Error {
 public:
  OutputFileError(const std::string& path, const std::string& cause)
      : Error(path + ": " + cause), path_(path) {}
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// A device is missing, out of memory, or failed. Exit code 70; 64 where it was asked for by an
/// option and does not exist (then it is an InvalidArgument).
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// A peer rank was lost, or did not answer in time. Exit code 75.
class CommunicationError : public Error {
 public:
  using Error::Error;
};

}  // namespace polymoe
