// SPDX-License-Identifier: Apache-2.0
// What the project's HDF5 files share. The library's own header stays behind runtime/hdf5_*.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "runtime/dtype.h"

namespace polymoe {

/// Owner of one HDF5 identifier. Move-only; the destructor closes and ignores failures.
class Hdf5Handle {
 public:
  using Close = int (*)(std::int64_t);

  Hdf5Handle() = default;
  Hdf5Handle(std::int64_t id, Close close) : id_(id), close_(close) {}
  ~Hdf5Handle() { reset(); }
  Hdf5Handle(Hdf5Handle&& other) noexcept;
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept;
  Hdf5Handle(const Hdf5Handle&) = delete;
  Hdf5Handle& operator=(const Hdf5Handle&) = delete;

  std::int64_t id() const { return id_; }
  bool valid() const { return id_ >= 0; }
  /// Closes; false when the library reports a failure.
  bool reset();

 private:
  std::int64_t id_ = -1;
  Close close_ = nullptr;
};

/// Before every use: errors come back as values and nothing is printed, and the library loads no
/// plugins. The error stack is one per thread.
void prepare_hdf5();

/// The innermost entry of this thread's error stack.
std::string hdf5_reason();

/// The library's type of a dtype that a file can hold. Throws InvalidArgument for others.
std::int64_t hdf5_type(DType dtype);

/// A new property list of an HDF5 class.
Hdf5Handle hdf5_properties(std::int64_t kind);

/// Access to files without locks: they fail on some network file systems, and a file has one
/// writer and no reader until it is committed.
Hdf5Handle hdf5_file_access();

/// A new file in the format that `access` asks for, without times in it. Throws OutputFileError.
Hdf5Handle create_hdf5_file(const std::filesystem::path& path, const Hdf5Handle& access);

/// Makes the groups that lead to `name` where they do not exist. Throws OutputFileError, and
/// InvalidArgument if there is something of that name.
void make_hdf5_groups(const std::filesystem::path& path, const Hdf5Handle& file,
                      const std::string& name);

/// Flushes and closes a file that was written. Throws OutputFileError.
void close_hdf5_file(const std::filesystem::path& path, Hdf5Handle& file);

}  // namespace polymoe
