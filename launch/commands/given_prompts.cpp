// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/given_prompts.h"

#include <fmt/core.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "launch/commands/command_line.h"
#include "launch/data/text_inputs.h"
#include "launch/inference/prompt_file.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "runtime/error.h"
#include "runtime/files/compressed_text.h"

namespace polymoe {
namespace {

constexpr const char* standard_input = "standard input";

std::string name_of(const std::string& path) { return path == "-" ? standard_input : path; }

constexpr std::int64_t most_bytes = 64 << 20;  // of prompts

/// All that a stream or pipe has.
std::string read_stream(std::istream& stream, const std::string& name) {
  std::string text;
  std::array<char, 1 << 16> part{};
  while (stream.read(part.data(), part.size()) || stream.gcount() > 0) {
    text.append(part.data(), static_cast<std::size_t>(stream.gcount()));
    if (std::ssize(text) > most_bytes)
      throw InputFileError(name, fmt::format("has more than {} bytes", most_bytes));
  }
  if (stream.bad()) throw InputFileError(name, "cannot be read");
  return text;
}

/// Standard input, a pipe or a file, on every rank: mpirun gives standard input to rank 0 alone.
std::string read_text(const std::string& path, Communicator& world) {
  return on_first_rank(world, [&] {
    if (path == "-") return read_stream(std::cin, name_of(path));
    std::error_code error;
    if (!std::filesystem::is_fifo(path, error)) return read_compressed_file(path, most_bytes);
    std::ifstream pipe(path, std::ios::binary);
    if (!pipe) throw InputFileError(path, "cannot be opened");
    return read_stream(pipe, path);
  });
}

}  // namespace

std::vector<GivenPrompt> read_prompts(const CommandLine& line, Communicator& world) {
  if (line.has("prompt")) return {{.text = line.value("prompt")}};
  if (line.has("prompt-file")) {
    const std::string path = line.value("prompt-file");
    return {{.text = read_text(path, world), .place = name_of(path)}};
  }
  if (!line.has("prompts")) return {};
  const std::string path = line.value("prompts");
  const std::string name = name_of(path);
  const std::string content = read_text(path, world);
  // Not by what the path is: that only rank 0 can tell of a pipe.
  const bool says_nothing = !std::filesystem::path(path).has_extension();
  const bool objects = names_json_lines(path) || (says_nothing && begins_with_json_prompt(content));
  std::vector<GivenPrompt> prompts;
  for (FilePrompt& prompt : parse_prompts(content, name, objects))
    prompts.push_back({.text = std::move(prompt.text),
                       .place = fmt::format("{}, line {}", name, prompt.line),
                       .id = std::move(prompt.id)});
  return prompts;
}

std::optional<GivenPrompt> ask_for_prompt(Communicator& world) {
  const auto text = on_first_rank(world, [] {
    std::string line;
    return std::getline(std::cin, line) ? std::optional(line) : std::nullopt;
  });
  if (!text) return std::nullopt;
  return GivenPrompt{.text = *text, .place = standard_input};
}

}  // namespace polymoe
