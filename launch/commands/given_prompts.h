// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/commands/command_line.h"
#include "parallel/communication/communicator.h"
#include "runtime/files/json.h"

namespace polymoe {

/// A prompt as it was given, and how messages call it.
struct GivenPrompt {
  std::string text;
  std::string place = {};  // "FILE, line N"; empty: the command line's
  Json id = {};
};

/// The prompts that the command line of `generate` names; none where they are asked for. The same
/// on every rank. Collective. Throws InputFileError.
std::vector<GivenPrompt> read_prompts(const CommandLine& line, Communicator& world);

/// A line of standard input, on every rank; nothing at its end. Collective.
std::optional<GivenPrompt> ask_for_prompt(Communicator& world);

}  // namespace polymoe
