// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "runtime/files/token_file.h"

namespace polymoe {

/// By what a token file is known again, at a cost that does not grow with it.
struct FileIdentity {
  std::string path;  // as the configuration names it
  std::int64_t bytes = 0;
  std::int64_t modified = 0;  // nanoseconds since the epoch
  std::int64_t tokens = 0;
  std::int64_t documents = 0;
  std::string hash;  // of some blocks of tokens and index

  /// Throws InputFileError.
  static FileIdentity of(const TokenFile& file, const std::string& path);
  /// "has 120 tokens instead of 60", ...; empty for the same content, whatever path and time.
  std::string difference_to(const FileIdentity& earlier) const;
};

}  // namespace polymoe
