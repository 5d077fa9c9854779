// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace polymoe {

/// The texts of one column of a Parquet file, from its first row to its last. Memory is that of a page
/// and a few rows, whatever the sizes.
class ParquetTexts {
 public:
  virtual ~ParquetTexts() = default;
  /// Reads the next row; false at the end. Throws InputFileError naming the row where there is no
  /// text, or where the file is damaged.
  virtual bool next(std::string& text) = 0;
  /// The number of the row given last, from 1, and how many there are.
  virtual std::int64_t row() const = 0;
  virtual std::int64_t rows() const = 0;
};

/// Whether this build reads Parquet: Arrow's C++ library was found.
bool reads_parquet();

/// `column` of a file. Throws InputFileError where the file cannot be read, where there is no such
/// column of texts, naming those that there are, and in a build that does not read Parquet.
std::unique_ptr<ParquetTexts> open_parquet(const std::string& path, const std::string& column);

}  // namespace polymoe
