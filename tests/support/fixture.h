// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/tensor.h"

namespace polymoe::test {

/// Expected values written by tests/reference/NAME.py through fixture.py. A text file of entries
///   NAME extent extent ...
///   value value ...
/// A scalar has no extents; an entry without elements has an empty second line.
class Fixture {
 public:
  /// Reads tests/reference/fixtures/`file`. Throws InputFileError naming the file and the entry.
  explicit Fixture(const std::string& file);

  bool contains(const std::string& name) const { return entries_.contains(name); }
  /// Throws InvalidArgument when there is no such entry.
  const Shape& shape(const std::string& name) const { return entry(name).shape; }
  const std::vector<double>& values(const std::string& name) const { return entry(name).values; }
  /// The value of an entry with one element.
  double scalar(const std::string& name) const;
  /// As f32, f64, i32 or i64.
  OwnedTensor tensor(const std::string& name, DType dtype) const;

 private:
  struct Entry {
    Shape shape;
    std::vector<double> values;
  };
  const Entry& entry(const std::string& name) const;

  std::string path_;
  std::map<std::string, Entry> entries_;
};

}  // namespace polymoe::test
