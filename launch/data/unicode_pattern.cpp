// SPDX-License-Identifier: Apache-2.0
#include "launch/data/unicode_pattern.h"
#include <cstddef>
#include <functional>
#include <string>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <memory>
#include <utility>

#include "runtime/error.h"

namespace polymoe {
namespace {

std::string message_of(int error) {
  std::array<PCRE2_UCHAR8, 256> text{};
  pcre2_get_error_message_8(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

/// The expression in PCRE2's words. \s of tokenizer files is Unicode's White_Space, which PCRE2
/// calls by its name.
std::string translated(const std::string& expression) {
  std::string result;
  for (std::size_t i = 0; i < expression.size(); ++i) {
    if (expression.compare(i, 2, "&&") == 0)
      throw InvalidArgument("regular expression '" + expression + "': && is not supported");
    if (expression[i] != '\\' || i + 1 == expression.size()) {
      result += expression[i];
      continue;
    }
    const char escaped = expression[++i];
    if (std::string_view("hHwWbBRXKGQE").find(escaped) != std::string_view::npos)
      throw InvalidArgument("regular expression '" + expression + "': \\" + escaped +
                            " is not supported");
    if (escaped == 's')
      result += "\\p{White_Space}";
    else if (escaped == 'S')
      result += "\\P{White_Space}";
    else
      result += std::string("\\") + escaped;
  }
  return result;
}

using MatchData = std::unique_ptr<pcre2_match_data_8, decltype(&pcre2_match_data_free_8)>;
using MatchContext = std::unique_ptr<pcre2_match_context_8, decltype(&pcre2_match_context_free_8)>;
using Stack = std::unique_ptr<pcre2_jit_stack_8, decltype(&pcre2_jit_stack_free_8)>;

}  // namespace

UnicodePattern::UnicodePattern(const std::string& expression) {
  const std::string text = translated(expression);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code_8* code =
      pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &offset, nullptr);
  if (code == nullptr)
    throw InvalidArgument("regular expression '" + expression + "': " + message_of(error));
  // Where the machine has no compiler of expressions, they are interpreted.
  pcre2_jit_compile_8(code, PCRE2_JIT_COMPLETE);
  code_ = code;
}

UnicodePattern UnicodePattern::literal(std::string_view text) {
  std::string expression;
  for (const char c : text) {
    if (std::string_view("\\^$.[]|()?*+{}#&-").find(c) != std::string_view::npos)
      expression += '\\';
    expression += c;
  }
  return UnicodePattern(expression);
}

UnicodePattern::~UnicodePattern() { pcre2_code_free_8(static_cast<pcre2_code_8*>(code_)); }

UnicodePattern::UnicodePattern(UnicodePattern&& other) noexcept
    : code_(std::exchange(other.code_, nullptr)) {}

void UnicodePattern::each_match(std::string_view text,
                                const std::function<void(std::size_t, std::size_t)>& found) const {
  const auto* code = static_cast<const pcre2_code_8*>(code_);
  const MatchData data(pcre2_match_data_create_from_pattern_8(code, nullptr),
                       pcre2_match_data_free_8);
  const MatchContext context(pcre2_match_context_create_8(nullptr), pcre2_match_context_free_8);
  const Stack stack(pcre2_jit_stack_create_8(32 << 10, 8 << 20, nullptr), pcre2_jit_stack_free_8);
  pcre2_jit_stack_assign_8(context.get(), nullptr, stack.get());
  const auto* subject = reinterpret_cast<PCRE2_SPTR8>(text.data());
  std::size_t at = 0;
  while (at < text.size()) {
    const int result =
        pcre2_match_8(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                      data.get(), context.get());
    if (result == PCRE2_ERROR_NOMATCH) return;
    if (result < 0)
      throw Error("regular expression at byte " + std::to_string(at) +
                  " of a text: " + message_of(result));
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer_8(data.get());
    found(ends[0], ends[1]);
    at = ends[1];
  }
}

}  // namespace polymoe
