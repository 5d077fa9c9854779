// SPDX-License-Identifier: Apache-2.0
#include "launch/data/huggingface_added_tokens.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/data/huggingface_text_rules.h"
#include "launch/data/unicode_text.h"

namespace polymoe {
namespace {

/// The code point before `end`, which is not 0; `end` moves before it.
char32_t code_point_before(std::string_view text, std::size_t& end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  std::size_t at = end;
  return next_code_point(text, at);
}

bool ends_with_word(std::string_view text) {
  std::size_t end = text.size();
  return end > 0 && is_word(code_point_before(text, end));
}
bool starts_with_word(std::string_view text) {
  std::size_t at = 0;
  return !text.empty() && is_word(next_code_point(text, at));
}

std::size_t without_blanks_at_end(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t before = end;
    if (!is_white_space(code_point_before(text, before))) break;
    end = before;
  }
  return end;
}
std::size_t blanks_at_start(std::string_view text) {
  std::size_t blanks = 0;
  while (blanks < text.size()) {
    std::size_t next = blanks;
    if (!is_white_space(next_code_point(text, next))) break;
    blanks = next;
  }
  return blanks;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens, bool after_normalization,
                                   const Normalizer& normalizer) {
  for (const AddedToken& token : tokens) {
    if (token.normalized != after_normalization) continue;
    std::string content = token.content;
    if (after_normalization && normalizer) normalizer(content);
    if (content.empty()) continue;
    by_first_byte_[static_cast<unsigned char>(content.front())].push_back({content, token});
  }
  for (std::vector<Entry>& entries : by_first_byte_)
    std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return a.content.size() > b.content.size();
    });
}

const AddedTokenFinder::Entry* AddedTokenFinder::longest_at(std::string_view text,
                                                            std::size_t at) const {
  for (const Entry& entry : by_first_byte_[static_cast<unsigned char>(text[at])])
    if (text.substr(at).starts_with(entry.content)) return &entry;
  return nullptr;
}

void AddedTokenFinder::split(
    std::string_view text, const std::function<void(std::int32_t id)>& token,
    const std::function<void(std::string_view text, std::size_t at)>& between) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Entry* entry = longest_at(text, at);
    if (entry == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + entry->content.size();
    at = end;
    if (entry->token.single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end))))
      continue;
    if (entry->token.strip_left)
      begin = std::max(without_blanks_at_end(text.substr(0, begin)), done);
    if (entry->token.strip_right) end += blanks_at_start(text.substr(end));
    if (done < begin) between(text.substr(done, begin - done), done);
    token(entry->token.id);
    done = end;
  }
  if (done < text.size()) between(text.substr(done), done);
}

}  // namespace polymoe
