// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace polymoe {

/// The texts of a Parquet file by rows, from its first row to its last. Memory is that of a page
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

/// The conversations of a file as lines of JSON: {"messages": [{"role", "content"}, ...]} of a
/// column messages of lists of structs, whose other fields are left out, else {"prompt",
/// "completion"} of two columns of texts. Throws InputFileError likewise; next() also where a text
/// is null or no UTF-8, naming row and column.
std::unique_ptr<ParquetTexts> open_parquet_conversations(const std::string& path);

}  // namespace polymoe
