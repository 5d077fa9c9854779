// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launch/config/config.h"

namespace polymoe {

/// One key of the configuration. The table of them serves reading, printing, --help, the list of
/// violations and the suggestion of the nearest key.
struct Option {
  std::string key;      // "moe.top_k"
  std::string allowed;  // "a whole number in [1, 65536]"
  std::string help;
  /// Stores the value that the text spells; false if it is not allowed.
  std::function<bool(const std::string& text, Config& config)> read;
  /// The text that read() takes back.
  std::function<std::string(const Config& config)> print;
};

/// Every key, grouped by section, in the order in which to_ini prints them.
const std::vector<Option>& options();
/// The option of that exact name, or null.
const Option* find_option(const std::string& key);

/// A key and the text given for it.
struct Assignment {
  std::string key;
  std::string value;
};

/// The assignments of INI text, in order. Throws InvalidArgument naming `origin` on a line that is
/// neither a section, a comment nor "key = value".
std::vector<Assignment> parse_ini(const std::string& text, const std::string& origin);

/// An option of a subcommand itself, beside the keys of the configuration.
struct CommandOption {
  std::string name;   // "tokens"
  std::string value;  // what it takes, for the help: "FILE"; "FILE..." = one or more; "" = nothing
  std::string help;
  bool required = false;
};

/// A subcommand's arguments.
class CommandLine {
 public:
  /// `positional` is the number of arguments without a name that are allowed; with `overrides`,
  /// "--section.key=value" is accepted as well. No abbreviations. Throws InvalidArgument listing at
  /// once what is unknown (with the nearest known option), repeated, missing or left over.
  CommandLine(const std::vector<CommandOption>& options, const std::vector<std::string>& args,
              std::size_t positional = 0, bool overrides = false);

  bool has(const std::string& option) const;
  /// The option's value, or `otherwise` where it was not given.
  std::string value(const std::string& option, const std::string& otherwise = {}) const;
  /// Of an option that takes several.
  std::vector<std::string> values(const std::string& option) const;
  const std::vector<std::string>& positional() const { return positional_; }
  /// "--section.key=value", for read_config.
  const std::vector<std::string>& overrides() const { return overrides_; }

 private:
  struct Given {
    std::string option;
    std::vector<std::string> values;
  };
  const Given* find(const std::string& option) const;

  std::vector<Given> given_;
  std::vector<std::string> positional_;
  std::vector<std::string> overrides_;
};

/// One line: `heading: line`, or several: `heading: N errors` and a line each, indented.
std::string list_violations(const std::string& heading, const std::vector<std::string>& lines);

}  // namespace polymoe
