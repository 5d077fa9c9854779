// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/data/huggingface_text_rules.h"

namespace polymoe {

/// A token of a tokenizer file that stands outside its model.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool single_word = false;                      // only where no word goes on
  bool strip_left = false, strip_right = false;  // takes the white space beside it
  bool normalized = false;                       // is looked for after normalisation
  bool special = false;                          // stands for no text
};

/// Finds added tokens in a text: leftmost, the longest first.
class AddedTokenFinder {
 public:
  /// Those of `tokens` whose `normalized` is `after_normalization`, as the normalizer leaves them.
  AddedTokenFinder(const std::vector<AddedToken>& tokens, bool after_normalization,
                   const Normalizer& normalizer);

  /// Calls `token` and `between` in the order of the text; what lies between is not empty.
  void split(std::string_view text, const std::function<void(std::int32_t id)>& token,
             const std::function<void(std::string_view text, std::size_t at)>& between) const;

 private:
  struct Entry {
    std::string content;
    AddedToken token;
  };
  const Entry* longest_at(std::string_view text, std::size_t at) const;

  std::array<std::vector<Entry>, 256> by_first_byte_;  // longest first
};

}  // namespace polymoe
