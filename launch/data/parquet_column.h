// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <parquet/column_reader.h>
#include <parquet/file_reader.h>
#include <parquet/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace polymoe {

/// The texts of one column of a Parquet file, or of a column within a list of structs, row by row.
/// Memory is that of a page and a row. What it throws is Parquet's.
class ParquetColumn {
 public:
  /// `column` is the number of a leaf of byte arrays with at most one list above it; `file`
  /// outlives this.
  ParquetColumn(parquet::ParquetFileReader& file, int column);

  /// The next row's text, or the texts of its list; nothing in the place of one that is null. False
  /// at the end of the file.
  bool next(std::vector<std::optional<std::string>>& texts);

 private:
  bool present();
  void take(std::vector<std::optional<std::string>>& texts);

  parquet::ParquetFileReader& file_;
  int column_ = 0, group_ = 0;
  std::int16_t text_level_ = 0;  // definition level of a text that is there
  std::int16_t item_level_ = 0;  // from it on a list has an item
  bool listed_ = false;
  std::shared_ptr<parquet::ByteArrayReader> reader_;
  std::vector<std::int16_t> definitions_, repetitions_;
  std::vector<parquet::ByteArray> values_;
  std::size_t at_ = 0, value_ = 0, given_ = 0;  // in the levels, in values_
};

}  // namespace polymoe
