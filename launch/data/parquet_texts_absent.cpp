// SPDX-License-Identifier: Apache-2.0
// What a build without Arrow has.
#include <memory>
#include <string>
#include "launch/data/parquet_texts.h"
#include "runtime/error.h"

namespace polymoe {

bool reads_parquet() { return false; }

std::unique_ptr<ParquetTexts> open_parquet_conversations(const std::string& path) {
  throw InputFileError(
      path,
      "is a Parquet file, which this build does not read: it was configured without Arrow's C++ "
      "library (Parquet's pkg-config module parquet). Install that and build again, or write the "
      "text as JSON lines, e.g. by pandas: to_json(..., orient='records', lines=True)");
}

std::unique_ptr<ParquetTexts> open_parquet(const std::string& path, const std::string&) {
  return open_parquet_conversations(path);
}

}  // namespace polymoe
