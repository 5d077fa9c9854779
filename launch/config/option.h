// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "launch/config/config.h"

namespace polymoe {

/// One key of the configuration.
struct Option {
  std::string key;      // "moe.top_k"
  std::string allowed;  // "a whole number in [1, 65536]"
  std::string help;
  /// Stores the value that the text spells; false if it is not allowed.
  std::function<bool(const std::string& text, Config& config)> read;
  /// The text that read() takes back.
  std::function<std::string(const Config& config)> print;
};

}  // namespace polymoe
