// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>

namespace polymoe {

/// What an error is, for those who pass it on: to other ranks, or as the process's exit code.
enum class ErrorKind : std::uint8_t {
  unforeseen,
  invalid_argument,
  input_file,
  output_file,
  device,
  communication,
  not_finite,
};

/// Base of every error that polymoe raises on purpose. `what()` is one line: what, where, which
/// value, what is allowed; of a file error it is "PATH: CAUSE".
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : Error(ErrorKind::unforeseen, "", message) {}

  ErrorKind kind() const { return kind_; }
  const std::string& path() const { return path_; }    // of the file; empty where there is none
  const std::string& cause() const { return cause_; }  // what() without the path

 protected:
  Error(ErrorKind kind, const std::string& path, const std::string& cause)
      : std::runtime_error(path.empty() ? cause : path + ": " + cause),
        kind_(kind),
        path_(path),
        cause_(cause) {}

 private:
  ErrorKind kind_;
  std::string path_;
  std::string cause_;
};

/// An argument, option or configuration value is not allowed.
class InvalidArgument : public Error {
 public:
  explicit InvalidArgument(const std::string& message)
      : Error(ErrorKind::invalid_argument, "", message) {}
};

/// An input file is missing, damaged or of another kind.
class InputFileError : public Error {
 public:
  InputFileError(const std::string& path, const std::string& cause)
      : Error(ErrorKind::input_file, path, cause) {}
};

/// Output could not be written.
class OutputFileError : public Error {
 public:
  OutputFileError(const std::string& path, const std::string& cause)
      : Error(ErrorKind::output_file, path, cause) {}
};

/// A device is missing, out of memory, or failed. Where it was asked for by an option and does not
/// exist it is an InvalidArgument.
class DeviceError : public Error {
 public:
  explicit DeviceError(const std::string& message) : Error(ErrorKind::device, "", message) {}
};

/// A peer rank was lost, or did not answer in time.
class CommunicationError : public Error {
 public:
  explicit CommunicationError(const std::string& message)
      : Error(ErrorKind::communication, "", message) {}
};

/// Training cannot go on because the loss or the gradient is not finite.
class NotFiniteError : public Error {
 public:
  explicit NotFiniteError(const std::string& message) : Error(ErrorKind::not_finite, "", message) {}
};

/// ErrorKind::unforeseen of what is no Error.
ErrorKind kind_of(const std::exception& error);

/// Throws the class of error that `kind` stands for; of a file error `path` is the file.
[[noreturn]] void throw_error(ErrorKind kind, const std::string& path, const std::string& cause);

}  // namespace polymoe
