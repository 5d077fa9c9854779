// SPDX-License-Identifier: Apache-2.0
#include "launch/analysis/analysis.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "launch/data/tokenizer.h"

namespace polymoe {

std::vector<std::size_t> shown_places(std::size_t count, std::size_t most) {
  std::vector<std::size_t> result;
  const std::size_t shown = std::min(count, most);
  for (std::size_t i = 0; i < shown; ++i)
    result.push_back(shown < 2 ? 0 : i * (count - 1) / (shown - 1));
  return result;
}

std::string token_text(std::int32_t id, const Tokenizer* tokenizer) {
  if (tokenizer == nullptr || id >= tokenizer->vocab()) return fmt::format("#{}", id);
  std::string text;
  for (const char c : tokenizer->bytes_of(id)) {
    if (c == '\n')
      text += "\\n";
    else if (static_cast<unsigned char>(c) < 0x20)
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      text += c;
  }
  return text.empty() ? fmt::format("#{}", id) : text;
}

}  // namespace polymoe
