// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "launch/config/config.h"
#include "launch/data/token_rows.h"
#include "runtime/files/token_file.h"

namespace polymoe {

/// Where the documents of a token file end: its index says so, or an id that ends them.
class DocumentEnds {
 public:
  /// `name` as the configuration has it. Without an index the id is data.end_of_text, or that of
  /// the description beside the file. Throws InputFileError where there is none of them.
  DocumentEnds(const TokenFile& file, const std::string& name, const DataConfig& config);

  /// Splits windows of `length` rows, `rows` in all, that have been read from `file` at token
  /// `begin`: writes document_starts, and -1 for the target of a document's last row.
  void split(const TokenFile& file, std::int64_t begin, std::int64_t rows, std::int64_t length,
             const TokenRows& to) const;

 private:
  std::optional<std::int64_t> end_id_;  // where no index says it
};

}  // namespace polymoe
