// SPDX-License-Identifier: Apache-2.0
#include "launch/config/ini.h"

#include <boost/program_options.hpp>
#include <sstream>

#include "runtime/error.h"

namespace polymoe {
namespace po = boost::program_options;

std::vector<Assignment> parse_ini(const std::string& text, const std::string& origin) {
  std::istringstream stream(text);
  std::vector<Assignment> assignments;
  try {
    // Nothing is registered: unknown keys, duplicates and values are judged against our own table,
    // so that all violations are found at once.
    const po::options_description nothing;
    for (const auto& given : po::parse_config_file(stream, nothing, true).options)
      assignments.push_back({given.string_key, given.value.empty() ? "" : given.value.front()});
  } catch (const po::error& error) {
    throw InvalidArgument(origin + ": " + error.what());
  }
  return assignments;
}

}  // namespace polymoe
