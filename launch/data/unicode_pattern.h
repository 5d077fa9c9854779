// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace polymoe {

/// A regular expression over UTF-8 with Unicode's classes, as tokenizer files hold them.
class UnicodePattern {
 public:
  /// Throws InvalidArgument on a syntax error, and on what has another meaning in the programs that
  /// write such files than here (\h, \w, \b, &&).
  explicit UnicodePattern(const std::string& expression);
  /// The text itself.
  static UnicodePattern literal(std::string_view text);
  ~UnicodePattern();
  UnicodePattern(UnicodePattern&& other) noexcept;
  UnicodePattern& operator=(UnicodePattern&&) = delete;
  UnicodePattern(const UnicodePattern&) = delete;
  UnicodePattern& operator=(const UnicodePattern&) = delete;

  /// Calls `found` with begin and end of every match, front to back; empty ones are passed over.
  /// `text` is valid UTF-8. Thread-safe. Throws Error when a match needs more than the library's
  /// limits.
  void each_match(std::string_view text,
                  const std::function<void(std::size_t, std::size_t)>& found) const;

 private:
  void* code_ = nullptr;
};

}  // namespace polymoe
