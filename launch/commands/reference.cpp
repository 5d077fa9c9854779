// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/reference.h"

#include <fmt/core.h>
#include <filesystem>
#include <string>
#include <vector>

#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/option.h"
#include "launch/config/option_table.h"
#include "launch/machine/version.h"
#include "runtime/files/file.h"

namespace polymoe {
namespace {

std::string replaced(const std::string& text, char what, const char* by) {
  std::string result;
  for (const char c : text) c == what ? result.append(by) : result.append(1, c);
  return result;
}

/// A cell of a table in Markdown.
std::string cell(const std::string& text) { return replaced(text, '|', "\\|"); }

/// Text of a man page: neither a request at the start of a line nor a hyphen that breaks options.
std::string troff(const std::string& text) {
  std::string escaped = replaced(replaced(text, '\\', "\\e"), '-', "\\-");
  return escaped.starts_with(".") || escaped.starts_with("'") ? "\\&" + escaped : escaped;
}

std::string section_of(const Option& option) { return option.key.substr(0, option.key.find('.')); }

std::string default_of(const Option& option) {
  const std::string value = option.print(Config());
  return value.empty() ? "empty" : value;
}

std::string file_name(const Command& command) {
  return "polymoe-" + replaced(command.name, ' ', "-");
}

std::string man_head(const std::string& name, const std::string& summary) {
  return fmt::format(".TH {} 1 \"\" \"polymoe {}\" \"polymoe\"\n.SH NAME\n{} \\- {}\n",
                     replaced(name, '-', "\\-"), version(), troff(name), troff(summary));
}

std::string entry(const std::string& term, const std::string& text) {
  return ".TP\n.B " + troff(term) + "\n" + troff(text) + "\n";
}

std::string man_keys() {
  std::string text, section;
  for (const Option& option : options()) {
    if (section_of(option) != section) {
      section = section_of(option);
      text += ".SS " + section + "\n";
    }
    text += entry(option.key, fmt::format("{}; {}; default {}", option.help, option.allowed,
                                          default_of(option)));
  }
  return text;
}

const char* const exit_codes =
    ".SH EXIT STATUS\n0 done; 1 a comparison found a difference; 64 usage or configuration; 65 bad "
    "input file; 70 internal error; 74 output could not be written; 75 a peer was lost; 85 "
    "preempted, checkpoint committed; 86 loss or gradient not finite.\n";

}  // namespace

std::vector<const Command*> all_commands() {
  std::vector<const Command*> all;
  for (const Command* command : commands()) {
    if (command->subcommands.empty()) all.push_back(command);
    all.insert(all.end(), command->subcommands.begin(), command->subcommands.end());
  }
  return all;
}

std::string configuration_markdown() {
  std::string text =
      "# Configuration\n\n"
      "<!-- Written by `polymoe help --reference DIR` from launch/config/option_table.cpp; a test "
      "compares. -->\n\n"
      "Every key, in a file as `key = value` under `[section]`, on the command line as "
      "`--section.key=value`.\nThe command line wins over the file, the file over the default. "
      "Unknown keys, keys given twice and values\nout of range are errors, all listed at once. "
      "`#` starts a comment. Counts may be written 1e6, 4k, 2M, 1.5B.\nWhat a run was told is in "
      "`RUN/config.ini`, automatic widths resolved.\n\n"
      "How to choose: [choosing.md](choosing.md). The same on the terminal: `polymoe help train`, "
      "or of one section\n`polymoe help train optimizer`.\n";
  std::string section;
  for (const Option& option : options()) {
    if (section_of(option) != section) {
      section = section_of(option);
      text += "\n## " + section + "\n\n| key | default | value | meaning |\n|---|---|---|---|\n";
    }
    text += fmt::format("| `{}` | {} | {} | {} |\n", option.key, cell(default_of(option)),
                        cell(option.allowed), cell(option.help));
  }
  return text;
}

std::string man_page() {
  std::string text = man_head("polymoe", "trains mixture-of-experts language models");
  text +=
      ".SH SYNOPSIS\n.B polymoe\n.I COMMAND\n[\\fIOPTION\\fR...]\n.br\n.B mpirun \\-n\n.I "
      "RANKS\n.B "
      "polymoe\n.I COMMAND\n[\\fIOPTION\\fR...]\n.SH COMMANDS\n";
  for (const Command* command : all_commands())
    text += entry(command->name, command->summary + "; " + file_name(*command) + "(1)");
  return text + exit_codes;
}

std::string man_page(const Command& command) {
  std::string text = man_head(file_name(command), command.summary);
  text += ".SH SYNOPSIS\n.B polymoe " + troff(command.name) + "\n";
  if (!command.arguments.empty()) text += ".I " + troff(command.arguments) + "\n";
  text += "[\\fIOPTION\\fR...]";
  if (command.overrides) text += " [\\fB\\-\\-section.key=\\fIvalue\\fR...]";
  text += "\n.SH OPTIONS\n";
  for (const CommandOption& option : command.options)
    text += entry("--" + option.name + (option.value.empty() ? "" : " " + option.value),
                  option.help + (option.required ? "; must be given" : ""));
  if (command.overrides) text += ".SH CONFIGURATION\n" + man_keys();
  return text + exit_codes + ".SH SEE ALSO\npolymoe(1)\n";
}

std::string bash_completion() {
  std::string text =
      "# SPDX-License-Identifier: Apache-2.0\n# Completion of polymoe for bash.\n"
      "_polymoe() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} words command=${COMP_WORDS[1]}\n"
      "  COMPREPLY=()\n"
      "  local keys=\"";
  for (const Option& option : options()) text += "--" + option.key + "= ";
  text += "\"\n  case $command in\n";
  for (const Command* command : commands()) {
    if (command->subcommands.empty()) continue;
    text += fmt::format("    {}) command=\"$command ${{COMP_WORDS[2]}}\" ;;\n", command->name);
  }
  text += "  esac\n  case $command in\n";
  for (const Command* command : all_commands()) {
    text += fmt::format("    \"{}\") words=\"--help ", command->name);
    for (const CommandOption& option : command->options) text += "--" + option.name + " ";
    text += command->overrides ? "$keys\" ;;\n" : "\" ;;\n";
  }
  text += "    *) words=\"";
  for (const Command* command : commands()) text += command->name + " ";
  text += "help --version --help\" ;;\n  esac\n";
  for (const Command* command : commands()) {
    if (command->subcommands.empty()) continue;
    text += fmt::format(
        "  if [ \"${{COMP_WORDS[1]}}\" = {} ] && [ \"$COMP_CWORD\" -eq 2 ]; then words=\"",
        command->name);
    for (const Command* member : command->subcommands)
      text += member->name.substr(command->name.size() + 1) + " ";
    text += "\"; fi\n";
  }
  text +=
      "  if [ \"$COMP_CWORD\" -gt 1 ] && [[ $current != -* ]] && [ \"${COMP_WORDS[1]}\" != help ] "
      "&&\n"
      "     ! [[ $command == *\" $current\" ]]; then\n"
      "    mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
      "    compopt -o filenames 2>/dev/null\n"
      "    return\n"
      "  fi\n"
      "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
      "  if [[ ${COMPREPLY[0]:-} == *= ]]; then compopt -o nospace 2>/dev/null; fi\n"
      "}\n"
      "complete -F _polymoe polymoe\n";
  return text;
}

void write_reference(const std::filesystem::path& directory) {
  make_directories(directory / "man1");
  make_directories(directory / "bash-completion");
  replace_file(directory / "configuration.md", configuration_markdown());
  replace_file(directory / "man1" / "polymoe.1", man_page());
  for (const Command* command : all_commands())
    replace_file(directory / "man1" / (file_name(*command) + ".1"), man_page(*command));
  replace_file(directory / "bash-completion" / "polymoe", bash_completion());
}

}  // namespace polymoe
