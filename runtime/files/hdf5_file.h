// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "runtime/files/hdf5_library.h"
#include "runtime/tensor.h"

namespace polymoe {

/// A new HDF5 file of one-dimensional, contiguous datasets. The same writes give the same bytes.
/// Every failure throws OutputFileError with the path and the library's reason. Thread-safe across
/// files; the library works on one at a time.
class Hdf5Writer {
 public:
  explicit Hdf5Writer(const std::filesystem::path& path);

  /// Writes all elements of a CPU tensor (f32, f64, bf16, i32, i64) as dataset `name`; slashes make
  /// groups. No element is not allowed, nor is a name that exists: InvalidArgument. Returns where
  /// in the file the elements begin, in bytes.
  std::int64_t write(const std::string& name, const Tensor& values);
  using WritePart = std::function<void(const Tensor& part)>;
  /// Writes in parts: `values` calls what it is given with `count` elements in all, in order.
  std::int64_t write(const std::string& name, DType dtype, std::int64_t count,
                     const std::function<void(const WritePart& write)>& values);
  /// The content has reached the system when this returns.
  void close();

 private:
  std::filesystem::path path_;
  Hdf5Handle file_;
};

/// An HDF5 file as Hdf5Writer makes it, opened for reading. Files of another format version are
/// refused, and such that were cut or have grown, before the library sees them; and whatever could
/// lead elsewhere: links other than hard ones, external storage, virtual and filtered datasets. The
/// library trusts the rest of a file's metadata: check a hash before opening one.
/// Errors: InputFileError.
class Hdf5Reader {
 public:
  struct Dataset {
    DType dtype;
    std::int64_t count;
    std::int64_t offset;  // of the first element in the file, in bytes
  };

  explicit Hdf5Reader(const std::filesystem::path& path);

  /// Names of all datasets, sorted.
  std::vector<std::string> datasets() const;
  Dataset describe(const std::string& name) const;
  /// Fills `out` (CPU) with its count of elements from `begin` on. The dtypes must be equal.
  void read(const std::string& name, std::int64_t begin, const Tensor& out) const;

 private:
  Hdf5Handle open_dataset(const std::string& name) const;
  Dataset describe(const Hdf5Handle& dataset, const std::string& name) const;
  std::int64_t storage_of(const Hdf5Handle& dataset, const std::string& name, std::uint64_t count,
                          std::uint64_t element_bytes) const;
  [[noreturn]] void fail(const std::string& what) const;

  std::filesystem::path path_;
  std::uint64_t file_bytes_ = 0;
  Hdf5Handle file_;
};

}  // namespace polymoe
