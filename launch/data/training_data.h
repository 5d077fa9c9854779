// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/data_state.h"
#include "launch/data/token_data.h"
#include "launch/data/tokenizer_identity.h"
#include "parallel/communication/communicator.h"
#include "runtime/files/token_file.h"

namespace polymoe {

/// All token files of a run: those it trains on and those it is validated on.
class TrainingData {
 public:
  /// Opens the files and looks at a few samples of each, whose number does not grow with the data.
  /// Collective over `world`; what the first rank finds is thrown on all. Throws InputFileError,
  /// InvalidArgument.
  TrainingData(const Config& config, Communicator& world);

  /// Goes on behind `sample` samples of `tokens` tokens: where `state`, of the checkpoint, says, or
  /// from there with files of which nothing is known. Returns what the log should say. Collective.
  /// Throws InputFileError where data or tokenizer are not those of before and data.changed is not
  /// accept.
  std::vector<std::string> go_on(const Json& state, std::int64_t sample, std::int64_t tokens,
                                 Communicator& world);
  /// For a checkpoint of rank 0 behind `sample` samples; null on other ranks.
  Json state(std::int64_t sample) const;
  /// Whose ids the files hold; on rank 0, and where one has a description or a tokenizer beside it.
  const std::optional<TokenizerIdentity>& tokenizer() const { return tokenizer_; }

  const TokenData& train() const { return train_; }
  const std::vector<TokenFile>& valid() const { return valid_; }
  /// Where the documents of one of these files end, with data.documents = mask; else null.
  const DocumentEnds* valid_documents(std::size_t file) const {
    return valid_ends_.empty() ? nullptr : &valid_ends_[file];
  }
  /// Share of the validation loss that each of these files has; their sum is 1.
  const std::vector<double>& valid_shares() const { return valid_shares_; }
  /// What they are called where each is reported apart.
  std::vector<std::string> valid_names() const;

  /// What the log should say at the start: a table of the files, and warnings.
  std::vector<std::string> table() const;
  std::vector<std::string> warnings() const;

 private:
  void look(const TokenFile& file, std::int64_t samples);
  void look_at_all();
  void agree_on_tokenizer();
  DataContinuation continuation(const Json& state, std::int64_t sample, std::int64_t tokens);

  const Config config_;
  TokenData train_;
  std::vector<TokenFile> valid_;
  std::vector<DocumentEnds> valid_ends_;
  std::vector<double> valid_shares_;
  std::string mixture_;  // the settings that the order of samples follows from
  // On rank 0:
  std::vector<DataState::File> identities_;  // as train_.files(), without positions
  std::vector<DataState::File> unused_;
  TokenData::CountsNotes counts_notes_;
  std::optional<TokenizerIdentity> tokenizer_;
  std::vector<std::string> tokenizer_names_;  // of the training files; "-" where it is not known
  std::int32_t largest_id_ = -1;              // of those that were looked at
  std::string file_of_largest_id_;
};

}  // namespace polymoe
