// SPDX-License-Identifier: Apache-2.0
#include "launch/data/parquet_texts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/properties.h>
#include <parquet/schema.h>
#include <parquet/types.h>

#include <optional>
#include <utility>
#include <vector>

#include "launch/data/parquet_column.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

using Texts = std::vector<std::optional<std::string>>;

/// Texts, and not raw bytes of another meaning.
bool holds_texts(const parquet::ColumnDescriptor& column) {
  if (column.physical_type() != parquet::Type::BYTE_ARRAY) return false;
  const auto& meaning = column.logical_type();
  return meaning == nullptr || meaning->is_string() || meaning->is_none() || meaning->is_JSON();
}

/// A file and its columns of texts: a text a row, or within one list.
class ParquetRows : public ParquetTexts {
 public:
  explicit ParquetRows(const std::string& path) : path_(path) {
    guarded([&] {
      parquet::ReaderProperties properties;
      properties.enable_buffered_stream();  // a page of the column is in memory, not all of it
      file_ = parquet::ParquetFileReader::OpenFile(path, false, properties);
      rows_ = file_->metadata()->num_rows();
      const parquet::SchemaDescriptor& schema = *file_->metadata()->schema();
      for (int i = 0; i < schema.num_columns(); ++i) {
        const parquet::ColumnDescriptor& column = *schema.Column(i);
        if (!holds_texts(column)) continue;
        if (column.max_repetition_level() == 0)
          names_.emplace_back(column.path()->ToDotString(), i);
        else if (column.max_repetition_level() == 1)
          listed_.push_back(i);
      }
    });
  }

  std::int64_t row() const override { return row_; }
  std::int64_t rows() const override { return rows_; }

 protected:
  /// The column of a text a row; -1 where there is none.
  int find(const std::string& name) const {
    for (const auto& [candidate, number] : names_)
      if (candidate == name) return number;
    return -1;
  }
  std::string names() const {
    std::vector<std::string> names;
    for (const auto& [name, number] : names_) names.push_back(name);
    return fmt::format("{}", fmt::join(names, ", "));
  }
  const parquet::ColumnDescriptor& descriptor(int column) const {
    return *file_->metadata()->schema()->Column(column);
  }

  template <class Body>
  void guarded(Body body) const {
    try {
      body();
    } catch (const parquet::ParquetException& error) {
      throw InputFileError(
          path_, fmt::format("behind row {}: cannot be read as Parquet: {}", row_, error.what()));
    }
  }

  std::string path_;
  std::unique_ptr<parquet::ParquetFileReader> file_;
  std::vector<std::pair<std::string, int>> names_;  // columns with a text a row
  std::vector<int> listed_;                         // columns within one list
  std::int64_t rows_ = 0, row_ = 0;
};

class ColumnTexts final : public ParquetRows {
 public:
  ColumnTexts(const std::string& path, const std::string& column)
      : ParquetRows(path), name_(column) {
    const int number = find(column);
    if (number < 0)
      throw InputFileError(
          path_, fmt::format("has no column \"{}\" of texts (--field); columns of texts: {}",
                             column, names()));
    column_.emplace(*file_, number);
  }

  bool next(std::string& text) override {
    bool there = false;
    guarded([&] { there = column_->next(texts_); });
    if (!there) return false;
    ++row_;
    if (!texts_.front())
      throw InputFileError(path_,
                           fmt::format("row {} has no text in the column \"{}\"", row_, name_));
    text = std::move(*texts_.front());
    return true;
  }

 private:
  std::string name_;
  std::optional<ParquetColumn> column_;
  Texts texts_;
};

class Conversations final : public ParquetRows {
 public:
  explicit Conversations(const std::string& path) : ParquetRows(path) {
    int role = -1, content = -1;
    for (std::size_t i = 0; i < listed_.size() && content < 0; ++i) {
      role = listed_[i];
      content = content_beside(role);
    }
    if (content >= 0) {
      listed_form_ = true;
      add("role", role);
      add("content", content);
    } else if (find("prompt") >= 0 && find("completion") >= 0) {
      add("prompt", find("prompt"));
      add("completion", find("completion"));
    } else {
      throw InputFileError(
          path_,
          fmt::format("--chat: has no column \"messages\" of lists of {{role, content}}, both "
                      "texts, nor \"prompt\" and \"completion\"; columns of texts: {}",
                      names()));
    }
  }

  bool next(std::string& text) override {
    std::size_t ended = 0;
    guarded([&] {
      for (Column& column : columns_) ended += column.reader.next(column.texts) ? 0 : 1;
    });
    if (ended == columns_.size()) return false;
    ++row_;
    const std::size_t count = columns_.front().texts.size();
    if (ended > 0 || columns_.back().texts.size() != count)
      throw InputFileError(path_, fmt::format("row {}: its columns end at different places", row_));
    Json messages = Json::array();
    for (std::size_t i = 0; i < count; ++i) messages.add(item(i));
    if (listed_form_)
      text = Json::object().set("messages", std::move(messages)).dump();
    else
      text = messages.items().front().dump();
    return true;
  }

 private:
  struct Column {
    std::string name;
    ParquetColumn reader;
    Texts texts;  // of the row
  };

  /// Of messages.*.role the number of the content in the same struct, of texts as well.
  int content_beside(int role) const {
    const parquet::schema::Node& node = *descriptor(role).schema_node();
    if (node.name() != "role" || !descriptor(role).path()->ToDotString().starts_with("messages."))
      return -1;
    for (const int content : listed_) {
      const parquet::schema::Node& other = *descriptor(content).schema_node();
      if (other.name() == "content" && other.parent() == node.parent()) return content;
    }
    return -1;
  }

  void add(const std::string& name, int number) {
    columns_.push_back({.name = name, .reader = ParquetColumn(*file_, number), .texts = {}});
  }

  Json item(std::size_t number) const {
    Json json = Json::object();
    for (const Column& column : columns_) {
      const std::optional<std::string>& text = column.texts[number];
      const auto refuse = [&](const char* what) {
        throw InputFileError(
            path_, listed_form_
                       ? fmt::format("row {}, column \"messages\": the {} of message {} {}", row_,
                                     column.name, number + 1, what)
                       : fmt::format("row {}, column \"{}\": {}", row_, column.name, what));
      };
      if (!text) refuse("is null");
      if (!is_valid_utf8(*text)) refuse("is no UTF-8");
      json.set(column.name, *text);
    }
    return json;
  }

  bool listed_form_ = false;
  std::vector<Column> columns_;
};

}  // namespace

bool reads_parquet() { return true; }

std::unique_ptr<ParquetTexts> open_parquet(const std::string& path, const std::string& column) {
  return std::make_unique<ColumnTexts>(path, column);
}

std::unique_ptr<ParquetTexts> open_parquet_conversations(const std::string& path) {
  return std::make_unique<Conversations>(path);
}

}  // namespace polymoe
