// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/command.h"
#include "launch/commands/command_line.h"
#include "launch/config/config.h"
#include "launch/config/option.h"
#include "launch/config/option_table.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "launch/config/values.h"
#include "launch/machine/device_choice.h"
#include "parallel/communication/device_world.h"
#include "runtime/device.h"
#include "runtime/error.h"

namespace polymoe {
namespace {

// `left` in a column, `right` wrapped beside it.
std::string two_columns(const std::string& left, const std::string& right, std::size_t column,
                        std::size_t width) {
  std::string text = "  " + left;
  std::size_t position = text.size();
  const auto next_line = [&] {
    text += '\n';
    position = 0;
  };
  if (position + 1 > column) next_line();
  bool first = true;
  for (const std::string& word : split_words(right)) {
    if (!first && position + 1 + word.size() > width) {
      next_line();
      first = true;
    }
    const std::size_t blanks = first ? column - std::min(column, position) : 1;
    text.append(blanks, ' ').append(word);
    position += blanks + word.size();
    first = false;
  }
  return text + '\n';
}

/// Lines of at most `width` columns, but for words that are longer.
std::string wrapped(const std::string& text, std::size_t width) {
  std::string lines;
  std::size_t position = 0;
  for (const std::string& word : split_words(text)) {
    if (position > 0 && position + 1 + word.size() > width) {
      lines += '\n';
      position = 0;
    }
    if (position > 0) lines += ' ';
    position += word.size() + (position > 0 ? 1 : 0);
    lines += word;
  }
  return lines + '\n';
}

std::string spelling(const CommandOption& option) {
  std::string text = "--";
  text.append(option.name);
  if (!option.value.empty()) text.append(" ").append(option.value);
  return text;
}

}  // namespace

const std::vector<const Command*>& commands() {
  static const std::vector<const Command*> all = {
      &train_command(),  &eval_command(),   &generate_command(),      &tokenize_command(),
      &data_command(),   &plan_command(),   &bench_command(),         &checkpoint_command(),
      &report_command(), &study_command(),  &explain_command(),       &analyze_command(),
      &scale_command(),  &doctor_command(), &verify_layout_command(),
  };
  return all;
}

CommandLine Command::parse(const std::vector<std::string>& args) const {
  constexpr std::size_t any = 1 << 20;
  CommandLine line(options, args, more_positional ? any : positional, overrides);
  line.take_as_positional(also_named);
  if (line.positional().size() < positional)
    throw InvalidArgument("arguments: " + name + " needs " + arguments + "; polymoe " + name +
                          " --help explains");
  return line;
}

const Command& take_command(std::vector<std::string>& args) {
  const std::vector<const Command*>* among = &commands();
  const Command* found = nullptr;
  std::string family;  // with a blank behind it
  while (!among->empty() && !args.empty() && !asks_for_help(args.front())) {
    const std::string word = args.front();
    std::vector<std::string> names;
    const Command* next = nullptr;
    for (const Command* command : *among) {
      names.push_back(command->name.substr(family.size()));
      if (names.back() == word) next = command;
    }
    if (next == nullptr) {
      const std::string meant = nearest(word, names);
      throw InvalidArgument("'" + family + word + "': unknown command" +
                            (meant.empty() ? "" : "; did you mean '" + family + meant + "'?") +
                            " (polymoe " + family + "--help lists them)");
    }
    args.erase(args.begin());
    found = next;
    family = found->name + " ";
    among = &found->subcommands;
  }
  if (found == nullptr) throw InvalidArgument("no command given; polymoe --help lists them");
  return *found;
}

std::string serve_device(CommandContext& context, Device device, bool share_gpus,
                         double timeout_seconds) {
  DeviceWorld world = make_device_world(std::move(context.world), device,
                                        {.share_devices = share_gpus,
                                         .timeout_seconds = timeout_seconds,
                                         .ledger = context.ledger.get()});
  context.world = std::move(world.communicator);
  return world.transport;
}

CommandOption device_option() {
  return {.name = "device",
          .value = "DEVICE",
          .help = "auto, cpu or cuda; default auto: a GPU where there is one"};
}

CommandOption batch_option() {
  return {
      .name = "batch",
      .value = "N",
      .help =
          "texts that a rank continues together; default: 32, or fewer where their keys and "
          "values would take more than a quarter of a GPU's free memory, or of a rank's share of "
          "the host's"};
}

Device inference_device(const CommandLine& line, CommandContext& context) {
  RunConfig run;
  run.device = line.value("device", "auto");
  if (run.device != "auto" && run.device != "cpu" && run.device != "cuda")
    throw InvalidArgument("--device " + run.device + ": must be auto, cpu or cuda");
  run.share_gpus = true;  // a model that is only read may as well
  const Device device =
      choose_device(run, {.rank = context.rank_on_node, .ranks = context.ranks_on_node});
  serve_device(context, device, run.share_gpus);
  return device;
}

const std::vector<std::string>& from_and_to() {
  static const std::vector<std::string> names = {"from", "to"};
  return names;
}

CommandOption from_option() {
  return {.name = "from", .value = "DIR", .help = "another way to give DIR"};
}
CommandOption to_option() {
  return {.name = "to", .value = "OUT", .help = "another way to give OUT"};
}

bool asks_for_help(const std::string& argument) { return argument == "--help" || argument == "-h"; }

std::string program_help(std::size_t width) {
  std::string text =
      "Trains mixture-of-experts language models.\n\n"
      "  polymoe COMMAND [OPTION...]\n"
      "  mpirun -n RANKS polymoe COMMAND [OPTION...]\n\n";
  for (const Command* command : commands())
    text += two_columns(command->name, command->summary, 16, width);
  return text +
         "\npolymoe help COMMAND     its options, as COMMAND --help\n"
         "polymoe --version        revision, libraries and processors\n";
}

namespace {

/// The keys of a section, or those that have `topic` in their name; all for an empty one.
std::string keys_help(const std::string& topic, std::size_t width) {
  const Config defaults;
  std::string text, section;
  for (const Option& option : options()) {
    const std::string of = option.key.substr(0, option.key.find('.'));
    if (option.key.find(topic) == std::string::npos) continue;
    if (of != section && !section.empty()) text += "\n";
    section = of;
    const std::string value = option.print(defaults);
    text += two_columns(
        option.key,
        option.help + "; " + option.allowed + "; default " + (value.empty() ? "empty" : value), 28,
        width);
  }
  return text;
}

}  // namespace

std::string command_help(const Command& command, std::size_t width, const std::string& topic) {
  if (!topic.empty()) {
    const std::string keys = command.overrides ? keys_help(topic, width) : "";
    if (keys.empty())
      throw InvalidArgument("--help " + topic + ": no key of polymoe " + command.name +
                            " has that in its name");
    return keys;
  }
  std::string text = wrapped(command.summary + ".", width) + "\n  polymoe " + command.name;
  if (!command.subcommands.empty()) {
    text += " COMMAND [OPTION...]\n\n";
    for (const Command* member : command.subcommands)
      text += two_columns(member->name.substr(command.name.size() + 1), member->summary, 14, width);
    return text + "\npolymoe " + command.name + " COMMAND --help   its options\n";
  }
  if (!command.arguments.empty()) text.append(" ").append(command.arguments);
  for (const CommandOption& option : command.options)
    if (option.required) text.append(" ").append(spelling(option));
  if (std::any_of(command.options.begin(), command.options.end(),
                  [](const CommandOption& option) { return !option.required; }))
    text += " [OPTION...]";
  if (command.overrides) text += " [--section.key=value...]";
  text += "\n\n";
  for (const CommandOption& option : command.options)
    text += two_columns(spelling(option), option.help, 28, width);
  if (!command.overrides) return text;

  text += "\n" + wrapped(
                     "Keys of the configuration, in the file `key = value` under [section], on the "
                     "command line --section.key=value, which wins. Counts may be written 1e6, 4k, "
                     "2M, 1.5B. `polymoe " +
                         command.name + " --help optimizer` shows those of a section.",
                     width);
  return text + "\n" + keys_help("", width);
}

}  // namespace polymoe
