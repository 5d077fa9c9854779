// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launch/commands/command.h"

namespace polymoe {

// What is written of commands and keys elsewhere than on the terminal, from the same tables.

/// docs/configuration.md: every key with default, range and meaning.
std::string configuration_markdown();
/// polymoe(1), or polymoe-NAME(1) of a command, in the man macros.
std::string man_page();
std::string man_page(const Command& command);
/// Completion of commands, options, keys and files for bash.
std::string bash_completion();

/// All commands that can be run, members of families for their families.
std::vector<const Command*> all_commands();

/// Writes configuration.md, man1/polymoe*.1 and bash-completion/polymoe into a directory, which is
/// made. Throws OutputFileError.
void write_reference(const std::filesystem::path& directory);

}  // namespace polymoe
