// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "launch/data/parquet_texts.h"
#include "runtime/files/byte_source.h"

namespace polymoe {

/// A document, or where it is long a part of one.
struct DocumentPart {
  std::string text;           // of JSON lines the whole line
  std::string origin;         // "a.txt", "b.jsonl line 17": for errors
  std::int64_t offset = 0;    // of the text's first byte within what `origin` names
  std::int64_t document = 0;  // number, from 0
  bool json = false;          // text is a line of JSON; otherwise it is the document's own
  bool first = false;         // begins the document
  bool last = false;          // ends it
};

/// The documents of text files, read front to back once: a file each, split at separator lines, a
/// line of JSON each, or of Parquet a row each. Empty documents are left out, and so is a byte
/// order mark. Memory is that of a part, whatever the sizes; a line of JSON and a row are one part.
class DocumentStream {
 public:
  struct Settings {
    std::string separator = {};   // a line equal to it ends a document; empty = none does
    bool json = false;            // every file is of JSON lines, not only those so named
    std::string column = "text";  // of Parquet files
    bool conversations = false;   // of Parquet files the messages, as lines of JSON
    std::size_t part_bytes = 1 << 20;
  };

  /// Reads files as text_inputs() gives them, one after the other.
  DocumentStream(std::vector<std::string> files, Settings settings);

  /// The next part; false at the end. Throws InputFileError where a file cannot be read, is
  /// UTF-16, or is a Parquet file that open_parquet() refuses or comes as standard input.
  bool next(DocumentPart& part);
  /// Bytes taken from the files so far.
  std::int64_t consumed() const;

 private:
  bool open_next();
  bool next_of_file(DocumentPart& part);
  bool next_record(DocumentPart& part);
  bool next_row(DocumentPart& part);
  bool fill();
  bool read_line(std::string_view& line, bool& whole);
  void emit(DocumentPart& part, std::size_t bytes, bool last);

  std::vector<std::string> files_;
  Settings settings_;
  std::size_t next_file_ = 0;
  std::unique_ptr<ByteSource> source_;
  std::unique_ptr<ParquetTexts> rows_;  // of a Parquet file, in place of source_
  std::int64_t file_bytes_ = 0;         // of that file
  std::string name_;                    // of the open file
  bool json_ = false;
  bool ended_ = false;  // nothing more comes from the source
  std::string input_;   // read and not looked at yet, from input_begin_ on
  std::size_t input_begin_ = 0;
  bool line_starts_ = true;  // input_begin_ is at the start of a line
  std::string pending_;      // of the document
  std::int64_t offset_ = 0;  // of pending_ in the text of the file
  std::int64_t line_ = 0;
  std::int64_t document_ = 0;
  bool begun_ = false;  // a part of it was given
  std::int64_t consumed_before_ = 0;
};

/// Where a long text can be cut so that a tokenizer makes of both parts what it makes of the whole:
/// before a single blank between words, else behind a line that does not end in a blank line, else
/// between two characters. In (0, most]; text is longer than `most`.
std::size_t part_length(std::string_view text, std::size_t most);

}  // namespace polymoe
