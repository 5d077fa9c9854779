// SPDX-License-Identifier: Apache-2.0
#include "launch/data/document_stream.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/data/parquet_texts.h"
#include "launch/data/text_inputs.h"
#include "runtime/error.h"
#include "runtime/files/byte_source.h"

namespace polymoe {
namespace {

constexpr std::size_t block_bytes = std::size_t{1} << 18;
constexpr std::size_t most_line_bytes = std::size_t{1} << 30;

bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

std::size_t part_length(std::string_view text, std::size_t most) {
  const std::size_t least = most / 2;  // no crumbs
  for (std::size_t at = most; at > least; --at)
    if (text[at] == ' ' && !is_blank(text[at - 1]) && at + 1 < text.size() &&
        !is_blank(text[at + 1]))
      return at;
  for (std::size_t at = most; at > least; --at)
    if (text[at - 1] == '\n' && !is_blank(text[at])) return at;
  std::size_t at = most;
  while (at > most - 4 && at > 1 && continues(text[at])) --at;
  return continues(text[at]) ? most : at;
}

DocumentStream::DocumentStream(std::vector<std::string> files, Settings settings)
    : files_(std::move(files)), settings_(std::move(settings)) {}

std::int64_t DocumentStream::consumed() const {
  if (rows_)  // as if all rows were of one size
    return consumed_before_ +
           static_cast<std::int64_t>(static_cast<double>(file_bytes_) *
                                     static_cast<double>(rows_->row()) /
                                     static_cast<double>(std::max<std::int64_t>(rows_->rows(), 1)));
  return consumed_before_ + (source_ ? source_->consumed() : 0);
}

bool DocumentStream::open_next() {
  consumed_before_ = consumed();
  source_.reset();
  rows_.reset();
  if (next_file_ == files_.size()) return false;
  const std::string& file = files_[next_file_++];
  source_ = open_byte_source(file);
  name_ = file == "-" ? "standard input" : file;
  json_ = settings_.json || names_json_lines(file);
  ended_ = false;
  input_.clear();
  input_begin_ = 0;
  line_starts_ = true;
  offset_ = line_ = 0;
  fill();
  const std::string_view front(input_);
  if (front.starts_with("\xEF\xBB\xBF")) {
    input_begin_ = 3;
    offset_ = 3;
  } else if (front.starts_with("\xFF\xFE") || front.starts_with("\xFE\xFF")) {
    throw InputFileError(name_,
                         "begins with the mark of UTF-16: convert it, e.g. by iconv -f "
                         "utf-16 -t utf-8");
  } else if (front.starts_with("PAR1")) {
    if (file == "-")
      throw InputFileError(name_, "is a Parquet file, which must be given by its name");
    rows_ = settings_.conversations ? open_parquet_conversations(file)
                                    : open_parquet(file, settings_.column);
    file_bytes_ = input_bytes({file});
    source_.reset();
  }
  return true;
}

/// More input behind what is there; false where there is none.
bool DocumentStream::fill() {
  if (ended_) return false;
  input_.erase(0, input_begin_);
  input_begin_ = 0;
  const std::size_t before = input_.size();
  input_.resize(before + block_bytes);
  const std::size_t got = source_->read(input_.data() + before, block_bytes);
  input_.resize(before + got);
  ended_ = got < block_bytes;
  return got > 0;
}

/// A line with its end; of a line longer than a part, in text files, a piece that is not whole.
bool DocumentStream::read_line(std::string_view& line, bool& whole) {
  std::size_t searched = input_begin_;
  while (true) {
    const std::size_t end = input_.find('\n', searched);
    if (end != std::string::npos) {
      line = std::string_view(input_).substr(input_begin_, end + 1 - input_begin_);
      whole = true;
      break;
    }
    const std::size_t present = input_.size() - input_begin_;
    if (json_ && present > most_line_bytes)
      throw InputFileError(name_, "line " + std::to_string(line_ + 1) + " has over 1 GiB");
    if ((!json_ && present >= settings_.part_bytes) || ended_) {
      if (present == 0) return false;
      line = std::string_view(input_).substr(input_begin_);
      whole = ended_;
      break;
    }
    searched = present;
    fill();  // moves what is there to the front
  }
  input_begin_ += line.size();
  return true;
}

void DocumentStream::emit(DocumentPart& part, std::size_t bytes, bool last) {
  part.text = pending_.substr(0, bytes);
  part.origin = name_;
  part.offset = offset_;
  part.document = document_;
  part.json = false;
  part.first = !begun_;
  part.last = last;
  begun_ = !last;
  pending_.erase(0, bytes);
  offset_ += static_cast<std::int64_t>(bytes);
  if (last) ++document_;
}

bool DocumentStream::next_record(DocumentPart& part) {
  std::string_view line;
  bool whole = false;
  while (read_line(line, whole)) {
    ++line_;
    const std::size_t text = line.find_first_not_of(" \t\r\n");
    if (text == std::string_view::npos) continue;
    part = {.text = std::string(line.substr(text)),
            .origin = name_ + " line " + std::to_string(line_),
            .offset = static_cast<std::int64_t>(text),
            .document = document_++,
            .json = true,
            .first = true,
            .last = true};
    return true;
  }
  return false;
}

bool DocumentStream::next_row(DocumentPart& part) {
  std::string text;
  while (rows_->next(text)) {
    if (text.empty()) continue;
    part = {.text = std::move(text),
            .origin = name_ + " row " + std::to_string(rows_->row()),
            .document = document_++,
            .json = settings_.conversations,
            .first = true,
            .last = true};
    return true;
  }
  return false;
}

bool DocumentStream::next_of_file(DocumentPart& part) {
  if (rows_) return next_row(part);
  if (json_) return next_record(part);
  while (true) {
    if (pending_.size() > settings_.part_bytes) {
      emit(part, part_length(pending_, settings_.part_bytes), false);
      return true;
    }
    std::string_view line;
    bool whole = false;
    const bool starts = line_starts_;
    if (!read_line(line, whole)) break;
    line_starts_ = line.ends_with('\n');
    std::string_view content = line;
    if (content.ends_with('\n')) content.remove_suffix(1);
    if (content.ends_with('\r')) content.remove_suffix(1);
    if (!settings_.separator.empty() && starts && whole && content == settings_.separator) {
      const auto skipped = static_cast<std::int64_t>(line.size());
      const bool given = !pending_.empty();
      if (given) emit(part, pending_.size(), true);
      offset_ += skipped;
      if (given) return true;
      continue;
    }
    pending_.append(line);
  }
  if (pending_.empty()) return false;
  emit(part, pending_.size(), true);
  return true;
}

bool DocumentStream::next(DocumentPart& part) {
  while (source_ || rows_ || open_next()) {
    if (next_of_file(part)) return true;
    if (!open_next()) break;
  }
  return false;
}

}  // namespace polymoe
