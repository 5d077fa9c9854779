// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/token_data.h"
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

  const TokenData& train() const { return train_; }
  const std::vector<TokenFile>& valid() const { return valid_; }
  /// Share of the validation loss that each of these files has; their sum is 1.
  const std::vector<double>& valid_shares() const { return valid_shares_; }

  /// What the log should say at the start: a table of the files, and warnings.
  std::vector<std::string> table() const;
  std::vector<std::string> warnings() const;

 private:
  void look(const TokenFile& file, std::int64_t samples) const;

  const Config config_;
  TokenData train_;
  std::vector<TokenFile> valid_;
  std::vector<double> valid_shares_;
};

}  // namespace polymoe
