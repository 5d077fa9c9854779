// SPDX-License-Identifier: Apache-2.0
#include "launch/data/document_ends.h"
#include <cstdint>
#include <string>

#include "launch/config/config.h"
#include "launch/data/token_rows.h"
#include "launch/data/tokenizer_identity.h"
#include "runtime/error.h"
#include "runtime/files/token_file.h"

namespace polymoe {

DocumentEnds::DocumentEnds(const TokenFile& file, const std::string& name,
                           const DataConfig& config) {
  if (file.documents() > 0) return;
  if (config.end_of_text >= 0)
    end_id_ = config.end_of_text;
  else
    end_id_ = end_of_document_of_tokens(name);
  if (!end_id_)
    throw InputFileError(file.path().string(),
                         "does not say where its documents end, as data.documents = mask needs it: "
                         "it has no index with documents; set data.end_of_text to the id that ends "
                         "them");
}

void DocumentEnds::split(const TokenFile& file, std::int64_t begin, std::int64_t rows,
                         std::int64_t length, const TokenRows& to) const {
  std::int64_t start = 0;  // row
  const auto fill = [&](std::int64_t end) {
    for (std::int64_t row = start; row < end; ++row) {
      if (row % length == 0) start = row;  // a window begins within a document
      to.document_starts[row] = static_cast<std::int32_t>(start % length);
    }
    start = end;
  };
  const auto end_before = [&](std::int64_t row) {
    to.targets[row - 1] = -1;
    if (row < rows) fill(row);
  };
  if (end_id_) {
    for (std::int64_t row = 1; row <= rows; ++row)
      if (to.tokens[row - 1] == *end_id_) end_before(row);
  } else {
    for (const std::int64_t token : file.document_starts(begin + 1, begin + rows + 1))
      end_before(token - begin);
  }
  fill(rows);
}

}  // namespace polymoe
