// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/files/hdf5_library.h"
#include "runtime/tensor.h"

namespace polymoe {

/// A new HDF5 file of virtual datasets: arrays whose elements lie in one-dimensional datasets of
/// other files. Those need not exist yet. Errors: OutputFileError.
class Hdf5ViewWriter {
 public:
  /// Elements [begin, begin + count) of an array, flat: the whole of a dataset.
  struct Part {
    std::string file;  // relative to the view's directory
    std::string dataset;
    std::int64_t begin = 0;
    std::int64_t count = 0;
  };

  explicit Hdf5ViewWriter(const std::filesystem::path& path);

  /// Adds an array; slashes in its name make groups. A shape without dimensions becomes [1]. Throws
  /// InvalidArgument for a name that exists.
  void add(const std::string& name, const Shape& shape, DType dtype,
           const std::vector<Part>& parts);
  /// The content has reached the system when this returns.
  void close();

 private:
  std::filesystem::path path_;
  Hdf5Handle file_;
};

}  // namespace polymoe
