// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace polymoe {

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
  /// The values of an option that takes several.
  std::vector<std::string> values(const std::string& option) const;
  const std::vector<std::string>& positional() const { return positional_; }
  /// Where all these options were given, their values become the positional arguments. Throws
  /// InvalidArgument where there are others beside them, or some options are missing.
  void take_as_positional(const std::vector<std::string>& options);
  /// "--section.key=value", for read_config.
  const std::vector<std::string>& overrides() const { return overrides_; }

 private:
  struct Given {
    std::string option;
    std::vector<std::string> values;
  };
  const Given* find(const std::string& option) const;
  std::vector<std::string> unused_options(const std::vector<CommandOption>& options) const;

  std::vector<Given> given_;
  std::vector<std::string> positional_;
  std::vector<std::string> overrides_;
};

}  // namespace polymoe
