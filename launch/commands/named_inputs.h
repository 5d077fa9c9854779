// SPDX-License-Identifier: Apache-2.0
// What lies behind a path that an argument names, for refuse_to_replace().
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/files/named_output.h"

namespace polymoe {

/// What a run directory or checkpoint consists of: of a run directory its files and folders, so
/// that others may lie beside them; a checkpoint as it is, and the files of its run.
void add_run(std::vector<NamedPath>& inputs, const std::string& argument,
             const std::filesystem::path& path);

/// A token file as TokenFile::open takes it, with what lies beside it: index, mask, description,
/// tokenizer.
void add_tokens(std::vector<NamedPath>& inputs, const std::string& argument,
                const std::filesystem::path& path);

}  // namespace polymoe
