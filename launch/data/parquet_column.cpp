// SPDX-License-Identifier: Apache-2.0
#include "launch/data/parquet_column.h"

#include <parquet/schema.h>

#include <cstdint>
#include <optional>
#include <utility>

namespace polymoe {
namespace {

constexpr std::int64_t most_levels = 64;  // read at a time

/// The definition level from which on the list above a leaf has an item.
std::int16_t level_of_items(const parquet::schema::Node* node) {
  while (node != nullptr && !node->is_repeated()) node = node->parent();
  std::int16_t level = 0;
  for (; node != nullptr && node->parent() != nullptr; node = node->parent())
    if (!node->is_required()) ++level;
  return level;
}

}  // namespace

ParquetColumn::ParquetColumn(parquet::ParquetFileReader& file, int column)
    : file_(file),
      column_(column),
      definitions_(most_levels),
      repetitions_(most_levels),
      values_(most_levels) {
  const parquet::ColumnDescriptor& descriptor = *file.metadata()->schema()->Column(column);
  text_level_ = descriptor.max_definition_level();
  listed_ = descriptor.max_repetition_level() > 0;
  item_level_ = listed_ ? level_of_items(descriptor.schema_node().get()) : std::int16_t{0};
}

/// Whether there is a level at at_: reads more, of the next row group where one has ended.
bool ParquetColumn::present() {
  while (at_ == given_) {
    while (reader_ == nullptr || !reader_->HasNext()) {
      if (group_ == file_.metadata()->num_row_groups()) return false;
      const std::shared_ptr<parquet::ColumnReader> column =
          file_.RowGroup(group_++)->Column(column_);
      reader_ = std::static_pointer_cast<parquet::ByteArrayReader>(column);
    }
    std::int64_t values = 0;
    // Views of the reader's page, good until the next call.
    given_ = static_cast<std::size_t>(reader_->ReadBatch(
        most_levels, definitions_.data(), repetitions_.data(), values_.data(), &values));
    at_ = value_ = 0;
  }
  return true;
}

void ParquetColumn::take(std::vector<std::optional<std::string>>& texts) {
  // Parquet gives no levels where all of them are 0.
  const std::int16_t level = text_level_ > 0 ? definitions_[at_] : std::int16_t{0};
  ++at_;
  if (level == text_level_) {
    const parquet::ByteArray& value = values_[value_++];
    texts.emplace_back(std::in_place, reinterpret_cast<const char*>(value.ptr), value.len);
  } else if (level >= item_level_) {
    texts.emplace_back(std::nullopt);
  }
}

bool ParquetColumn::next(std::vector<std::optional<std::string>>& texts) {
  texts.clear();
  if (!present()) return false;
  do {
    take(texts);
  } while (listed_ && present() && repetitions_[at_] > 0);
  return true;
}

}  // namespace polymoe
