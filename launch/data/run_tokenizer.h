// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "launch/data/tokenizer.h"

namespace polymoe {

/// Leaves the tokenizer beside the token files PREFIX.bin, PREFIX-train.bin and PREFIX-valid.bin:
/// a sentencepiece model as PREFIX.model, a tokenizer.json as PREFIX.tokenizer.json (and the
/// tokenizer_config.json beside it as PREFIX.tokenizer_config.json), the name of a built-in one in
/// PREFIX.tokenizer. `name` is as load_tokenizer takes it. Throws OutputFileError.
void leave_tokenizer(const std::string& name, const std::filesystem::path& prefix);

/// The tokenizer that was left beside a token file, as load_tokenizer takes it; nothing where there
/// is none.
std::optional<std::string> tokenizer_beside(std::filesystem::path file);

/// Takes over the tokenizer of the first training file that has one beside it, as
/// RUN/tokenizer.json, RUN/tokenizer.model or RUN/tokenizer, so that the run can turn its tokens
/// into text when the data has gone. Nothing happens where no file has one. A run keeps the
/// tokenizer that it has, by which its older checkpoints speak: another one is refused by
/// InputFileError. Throws OutputFileError.
void remember_tokenizer(const std::vector<WeightedFile>& files, const std::filesystem::path& run);

/// What the run of `checkpoint` (a run directory, or a checkpoint in one) remembers, as
/// load_tokenizer takes it; nothing where it remembers none.
std::optional<std::string> remembered_tokenizer(const std::filesystem::path& checkpoint);

/// The name that load_tokenizer takes: `given` unless empty, else what the run of `checkpoint` (a
/// run directory, or a checkpoint in one) remembers. Throws InvalidArgument naming --tokenizer when
/// it remembers none.
std::string tokenizer_name(const std::string& given, const std::filesystem::path& checkpoint);

/// The tokenizer of that name, for a model of `vocab` ids. Throws InputFileError where it has more.
std::unique_ptr<Tokenizer> load_run_tokenizer(const std::string& given,
                                              const std::filesystem::path& checkpoint,
                                              std::int64_t vocab);

}  // namespace polymoe
