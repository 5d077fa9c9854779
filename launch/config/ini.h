// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace polymoe {

/// A key and the text given for it.
struct Assignment {
  std::string key;  // "section.key"
  std::string value;
};

/// The assignments of INI text, in order. Throws InvalidArgument naming `origin` on a line that is
/// neither a section, a comment nor "key = value".
std::vector<Assignment> parse_ini(const std::string& text, const std::string& origin);

}  // namespace polymoe
