// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launch/data/file_identity.h"
#include "launch/data/token_data.h"
#include "launch/data/tokenizer_identity.h"
#include "runtime/files/json.h"

namespace polymoe {

/// What a checkpoint says of a run's data: how far every file has been read, by what the files are
/// known again, and by which tokenizer they were made.
struct DataState {
  struct File {
    FileIdentity identity;
    DataPosition::File position;  // where the mixture began
    std::int64_t drawn = 0;       // windows, up to the checkpoint
    std::int64_t windows = 0;     // of a pass
  };
  std::int64_t sample = 0, tokens = 0;  // where the mixture began
  std::string mixture;                  // the settings that it follows from
  std::vector<File> files;              // those that are no longer used last
  std::optional<TokenizerIdentity> tokenizer;

  Json to_json() const;
  /// Throws InvalidArgument where a member is missing or of another type.
  static DataState from_json(const Json& json);
};

/// Where a run goes on.
struct DataContinuation {
  DataPosition position;
  std::vector<DataState::File> unused;  // files of before that are no longer in the mixture
  std::vector<std::string> notes;       // what the log should say
};

/// Goes on behind `sample` samples and `tokens` tokens with `files`, whose positions are not
/// filled in. While mixture and files are the same, so is the order of the samples. Otherwise a new
/// mixture begins in which every file that was there before goes on where it was; a file under
/// another path is known by its content. A file whose content changed is refused by
/// InputFileError, or taken as a new one with `accept_changed`.
DataContinuation continue_data(const DataState& before, std::vector<DataState::File> files,
                               const std::string& mixture, std::int64_t sample, std::int64_t tokens,
                               bool accept_changed);

}  // namespace polymoe
