// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/command_line.h"

#include <algorithm>
#include <boost/program_options.hpp>
#include <cstddef>
#include <set>
#include <utility>
#include <vector>

#include "launch/config/suggestion.h"
#include "launch/config/values.h"
#include "runtime/violations.h"

namespace polymoe {
namespace po = boost::program_options;

namespace {

bool takes_several(const CommandOption& option) { return option.value.ends_with("..."); }

// "--section.key=value" or "--section.key value"; anything else is left in `args`.
std::vector<std::string> take_overrides(std::vector<std::string>& args,
                                        std::vector<std::string>& lines) {
  std::vector<std::string> overrides, rest;
  for (std::size_t i = 0; i < args.size(); ++i) {
    const std::string& argument = args[i];
    const std::string name = argument.substr(0, argument.find('='));
    if (!argument.starts_with("--") || name.find('.') == std::string::npos) {
      rest.push_back(argument);
    } else if (name.size() < argument.size()) {
      overrides.push_back(argument);
    } else if (i + 1 < args.size() && !args[i + 1].starts_with("--")) {
      overrides.push_back(argument + '=' + args[++i]);
    } else {
      lines.push_back(argument + ": needs a value, " + argument + "=VALUE");
    }
  }
  args = std::move(rest);
  return overrides;
}

/// Where an argument without a name was meant to go: "" where nobody can tell.
std::string meant_by(const std::string& argument, std::size_t number, bool none_allowed,
                     const std::vector<std::string>& names, const std::vector<std::string>& free) {
  if (argument.starts_with("-")) {
    const std::string option = nearest(argument.substr(1), names);
    return option.empty() ? "" : "; did you mean --" + option + "?";
  }
  if (!none_allowed || number >= free.size()) return "";
  return "; did you mean --" + free[number] + " " + argument + "?";
}

/// An option that ends as a longer one does: tokens, for max-tokens.
std::string nearest_option(const std::string& given, const std::vector<std::string>& names) {
  std::string best = nearest(given, names);
  if (!best.empty()) return best;
  for (const std::string& name : names)
    if (given.ends_with("-" + name) || given.ends_with("_" + name)) return name;
  return "";
}

}  // namespace

/// Those that take a value and were not given, in their order.
std::vector<std::string> CommandLine::unused_options(
    const std::vector<CommandOption>& options) const {
  std::vector<std::string> unused;
  for (const CommandOption& option : options)
    if (!option.value.empty() && !has(option.name)) unused.push_back(option.name);
  return unused;
}

CommandLine::CommandLine(const std::vector<CommandOption>& options,
                         const std::vector<std::string>& args, std::size_t positional,
                         bool overrides) {
  std::vector<std::string> lines, rest = args, names;
  if (overrides) overrides_ = take_overrides(rest, lines);
  po::options_description description;
  for (const CommandOption& option : options) {
    names.push_back(option.name);
    auto* value = po::value<std::vector<std::string>>();
    if (option.value.empty())
      value->zero_tokens();
    else if (takes_several(option))
      value->multitoken();
    description.add_options()(option.name.c_str(), value);
  }
  namespace style = po::command_line_style;
  try {
    const auto parsed =
        po::command_line_parser(rest)
            .options(description)
            .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
            .allow_unregistered()
            .run();
    std::set<std::string> seen;
    bool after_unknown = false;  // a word there is its value, not an argument too many
    for (const auto& given : parsed.options) {
      const bool is_value = std::exchange(after_unknown, given.unregistered);
      if (given.position_key >= 0) {
        if (is_value) continue;
        positional_.insert(positional_.end(), given.value.begin(), given.value.end());
      } else if (given.unregistered) {
        std::string best = nearest_option(given.string_key, names);
        if (best.empty() && overrides) {
          best = suggested_key(given.string_key);
          if (!best.empty()) best += "=VALUE";
        }
        lines.push_back("--" + given.string_key + ": unknown option" +
                        (best.empty() ? "" : "; did you mean --" + best + "?"));
      } else if (!seen.insert(given.string_key).second) {
        lines.push_back("--" + given.string_key + ": given more than once");
      } else {
        given_.push_back({given.string_key, given.value});
      }
    }
  } catch (const po::error& error) {
    lines.push_back(error.what());
  }
  const std::vector<std::string> free = unused_options(options);
  const bool dashes = std::any_of(positional_.begin(), positional_.end(),
                                  [](const auto& argument) { return argument.starts_with("-"); });
  for (std::size_t i = positional; i < positional_.size(); ++i)
    lines.push_back(
        "'" + positional_[i] + "': unexpected argument" +
        meant_by(positional_[i], i - positional, positional == 0 && !dashes, names, free));
  const bool all_read = lines.empty();  // otherwise a misspelled option would be missed as well
  for (const CommandOption& option : options)
    if (option.required && all_read && !has(option.name))
      lines.push_back("--" + option.name + " " + option.value + ": must be given");
  refuse_violations("arguments", lines);
}

const CommandLine::Given* CommandLine::find(const std::string& option) const {
  for (const Given& given : given_)
    if (given.option == option) return &given;
  return nullptr;
}

void CommandLine::take_as_positional(const std::vector<std::string>& options) {
  std::vector<std::string> named, missing;
  for (const std::string& option : options)
    if (has(option))
      named.push_back(value(option));
    else
      missing.push_back("--" + option + ": must be given, as the other is");
  if (named.empty()) return;
  if (!positional_.empty())
    missing = {"'" + positional_.front() + "': unexpected beside --" + options.front() + " and --" +
               options.back()};
  refuse_violations("arguments", missing);
  positional_ = std::move(named);
}

bool CommandLine::has(const std::string& option) const { return find(option) != nullptr; }

std::string CommandLine::value(const std::string& option, const std::string& otherwise) const {
  const Given* given = find(option);
  return given == nullptr || given->values.empty() ? otherwise : given->values.front();
}

std::vector<std::string> CommandLine::values(const std::string& option) const {
  const Given* given = find(option);
  return given == nullptr ? std::vector<std::string>() : given->values;
}

}  // namespace polymoe
