// SPDX-License-Identifier: Apache-2.0
#include "launch/commands/reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "launch/commands/command.h"
#include "launch/config/option_table.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::read_bytes;

TEST(ReferenceTest, TheDocumentOfKeysIsThatOfTheTable) {
  EXPECT_EQ(read_bytes(POLYMOE_SOURCE "/docs/configuration.md"), configuration_markdown())
      << "write it again: polymoe help --reference DIR; cp DIR/configuration.md docs/";
}

// README's table: "| `section` | key, key (remark), ... |".
TEST(ReferenceTest, ReadmeNamesEveryKeyOnce) {
  std::istringstream readme(read_bytes(POLYMOE_SOURCE "/README.md"));
  std::vector<std::string> named;
  for (std::string line; std::getline(readme, line);) {
    if (!line.starts_with("| `")) continue;
    const std::size_t end = line.find('`', 3);
    const std::string section = line.substr(3, end - 3);
    if (std::none_of(options().begin(), options().end(),
                     [&](const Option& option) { return option.key.starts_with(section + "."); }))
      continue;
    std::istringstream keys(line.substr(line.find('|', end) + 1));
    for (std::string key; std::getline(keys, key, ',');) {
      key.erase(0, key.find_first_not_of(' '));
      named.push_back(section + "." + key.substr(0, key.find_first_of(" :|")));
    }
  }
  std::vector<std::string> known;
  for (const Option& option : options()) known.push_back(option.key);
  std::sort(known.begin(), known.end());
  std::sort(named.begin(), named.end());
  EXPECT_EQ(named, known);
}

TEST(ReferenceTest, EveryCommandHasItsPageAndItsCompletion) {
  const test::TemporaryDirectory directory;
  write_reference(directory.path());
  const std::string completion = read_bytes(directory.path() / "bash-completion/polymoe");
  for (const Command* command : all_commands()) {
    std::string name = "polymoe-" + command->name;
    std::replace(name.begin(), name.end(), ' ', '-');
    const std::string page = read_bytes(directory.path() / "man1" / (name + ".1"));
    EXPECT_TRUE(page.starts_with(".TH ")) << page;
    for (const CommandOption& option : command->options) {
      std::string spelled = "\\-\\-" + option.name;
      for (std::size_t i = 4; (i = spelled.find('-', i)) != std::string::npos; i += 2)
        spelled.replace(i, 1, "\\-");
      EXPECT_NE(page.find(".B " + spelled), std::string::npos) << command->name << spelled;
    }
    EXPECT_NE(completion.find("\"" + command->name + "\") words="), std::string::npos);
  }
  EXPECT_EQ(read_bytes(directory.path() / "configuration.md"), configuration_markdown());
}

TEST(HelpTest, IsAsWideAsItIsTold) {
  constexpr std::size_t width = 60;
  for (const Command* command : {&checkpoint_export_hf_command(), &train_command()}) {
    std::istringstream lines(command_help(*command, width));
    for (std::string line; std::getline(lines, line);)
      EXPECT_TRUE(line.size() <= width || line.find(' ', 28) == std::string::npos) << line;
  }
}

}  // namespace
}  // namespace polymoe
