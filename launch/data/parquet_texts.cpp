// SPDX-License-Identifier: Apache-2.0
#include "launch/data/parquet_texts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <parquet/column_reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>
#include <parquet/properties.h>
#include <parquet/schema.h>
#include <parquet/types.h>

#include <vector>

#include "runtime/error.h"

namespace polymoe {
namespace {

/// One text a row: not of a list, and not of raw bytes of another meaning.
bool holds_texts(const parquet::ColumnDescriptor& column) {
  if (column.physical_type() != parquet::Type::BYTE_ARRAY || column.max_repetition_level() > 0)
    return false;
  const auto& meaning = column.logical_type();
  return meaning == nullptr || meaning->is_string() || meaning->is_none() || meaning->is_JSON();
}

class ColumnTexts final : public ParquetTexts {
 public:
  ColumnTexts(const std::string& path, const std::string& column) : path_(path) {
    guarded([&] {
      parquet::ReaderProperties properties;
      properties.enable_buffered_stream();  // a page of the column is in memory, not all of it
      file_ = parquet::ParquetFileReader::OpenFile(path, false, properties);
      rows_ = file_->metadata()->num_rows();
      find(column);
    });
  }

  bool next(std::string& text) override {
    guarded([&] {
      while (at_ == given_ && open_page()) {
      }
    });
    if (at_ == given_) return false;
    ++row_;
    // A value less than a level tells of a row without one.
    if (nullable_ && levels_[at_] < present_)
      throw InputFileError(path_,
                           fmt::format("row {} has no text in the column \"{}\"", row_, name_));
    const parquet::ByteArray& value = values_[value_++];
    text.assign(reinterpret_cast<const char*>(value.ptr), value.len);
    ++at_;
    return true;
  }

  std::int64_t row() const override { return row_; }
  std::int64_t rows() const override { return rows_; }

 private:
  static constexpr std::int64_t most_rows = 64;  // read at a time

  template <class Body>
  void guarded(Body body) const {
    try {
      body();
    } catch (const parquet::ParquetException& error) {
      throw InputFileError(
          path_, fmt::format("behind row {}: cannot be read as Parquet: {}", row_, error.what()));
    }
  }

  void find(const std::string& column) {
    const parquet::SchemaDescriptor& schema = *file_->metadata()->schema();
    std::vector<std::string> texts;
    for (int i = 0; i < schema.num_columns(); ++i) {
      const parquet::ColumnDescriptor& candidate = *schema.Column(i);
      if (!holds_texts(candidate)) continue;
      texts.push_back(candidate.path()->ToDotString());
      if (texts.back() != column) continue;
      column_ = i;
      name_ = column;
      present_ = candidate.max_definition_level();
      nullable_ = present_ > 0;
    }
    if (name_.empty())
      throw InputFileError(path_, fmt::format("has no column \"{}\" of texts (--field); columns of "
                                              "texts: {}",
                                              column, fmt::join(texts, ", ")));
  }

  /// Reads more rows, of the next row group where one has ended; false at the end of the file.
  bool open_page() {
    while (reader_ == nullptr || !reader_->HasNext()) {
      if (group_ == file_->metadata()->num_row_groups()) return false;
      const std::shared_ptr<parquet::ColumnReader> column =
          file_->RowGroup(group_++)->Column(column_);
      reader_ = std::static_pointer_cast<parquet::ByteArrayReader>(column);
    }
    levels_.resize(most_rows);
    values_.resize(most_rows);
    std::int64_t values = 0;
    // Views of the reader's page, good until the next call.
    given_ = static_cast<std::size_t>(
        reader_->ReadBatch(most_rows, levels_.data(), nullptr, values_.data(), &values));
    at_ = value_ = 0;
    return true;
  }

  std::string path_, name_;
  std::unique_ptr<parquet::ParquetFileReader> file_;
  int column_ = 0, group_ = 0;
  bool nullable_ = false;
  std::int16_t present_ = 0;  // level of a value that is there
  std::int64_t rows_ = 0, row_ = 0;
  std::shared_ptr<parquet::ByteArrayReader> reader_;
  std::vector<std::int16_t> levels_;
  std::vector<parquet::ByteArray> values_;
  std::size_t at_ = 0, value_ = 0, given_ = 0;  // in levels_, in values_
};

}  // namespace

bool reads_parquet() { return true; }

std::unique_ptr<ParquetTexts> open_parquet(const std::string& path, const std::string& column) {
  return std::make_unique<ColumnTexts>(path, column);
}

}  // namespace polymoe
