// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace polymoe {

/// A JSON value: null, bool, integer, number, string, array, or object whose members keep their
/// order. Built by hand to be written, or parsed.
///
/// The typed accessors throw InvalidArgument that names what was expected and what was found.
class Json {
 public:
  struct Member;

  // What makes or ends a value is defined below, where Member is complete.
  Json();
  Json(const Json&);
  Json(Json&&) noexcept;
  Json& operator=(const Json&);
  Json& operator=(Json&&) noexcept;
  ~Json();
  Json(bool value);  // NOLINT(google-explicit-constructor)
  template <std::integral T>
  requires(!std::same_as<T, bool>) Json(T value);  // NOLINT(google-explicit-constructor)
  Json(double value);                              // NOLINT(google-explicit-constructor)
  Json(std::string value);                         // NOLINT(google-explicit-constructor)
  Json(std::string_view value);                    // NOLINT(google-explicit-constructor)
  Json(const char* value);                         // NOLINT(google-explicit-constructor)

  static Json array();
  static Json object();

  /// Appends to an array.
  Json& add(Json value);
  /// Appends a member to an object. The caller gives each key once.
  Json& set(std::string key, Json value);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_array() const { return std::holds_alternative<Items>(value_); }
  bool is_object() const { return std::holds_alternative<Members>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }

  bool as_bool() const;
  /// An integer in [minimum, maximum]; a number with a fraction is none.
  std::int64_t as_integer(std::int64_t minimum = std::numeric_limits<std::int64_t>::min(),
                          std::int64_t maximum = std::numeric_limits<std::int64_t>::max()) const;
  /// An integer of the full unsigned range.
  std::uint64_t as_unsigned() const;
  double as_number() const;
  const std::string& as_string() const;
  const std::vector<Json>& items() const;
  const std::vector<Member>& members() const;

  /// The member of an object; null when there is none.
  const Json* find(std::string_view key) const;
  /// The same, but a missing member is an error.
  const Json& at(std::string_view key) const;

  /// One line without spaces. Doubles have as many digits as it takes to read the same bits back,
  /// and at least one after the point; JSON has no NaN and infinity, they become null. Bytes that
  /// are not UTF-8 become U+FFFD.
  std::string dump() const;
  /// Indented by two spaces per level; what holds no array or object stays on one line. Ends with a
  /// new line.
  std::string dump_indented() const;

 private:
  using Items = std::vector<Json>;
  using Members = std::vector<Member>;

  explicit Json(Items items);
  explicit Json(Members members);
  [[noreturn]] void fail(const std::string& expected) const;
  void append_to(std::string& text, int indent, int level) const;
  void append_container(std::string& text, int indent, int level) const;

  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, Items,
               Members>
      value_;
};

struct Json::Member {
  std::string key;
  Json value;
};

inline Json::Json() = default;
inline Json::Json(const Json&) = default;
inline Json::Json(Json&&) noexcept = default;
inline Json& Json::operator=(const Json&) = default;
inline Json& Json::operator=(Json&&) noexcept = default;
inline Json::~Json() = default;
inline Json::Json(bool value) : value_(value) {}
template <std::integral T>
requires(!std::same_as<T, bool>) Json::Json(T value) {
  if (std::in_range<std::int64_t>(value)) {
    value_ = static_cast<std::int64_t>(value);
  } else {
    value_ = static_cast<std::uint64_t>(value);
  }
}
inline Json::Json(double value) : value_(value) {}
inline Json::Json(std::string value) : value_(std::move(value)) {}
inline Json::Json(std::string_view value) : value_(std::string(value)) {}
inline Json::Json(const char* value) : value_(std::string(value)) {}
inline Json::Json(Items items) : value_(std::move(items)) {}
inline Json::Json(Members members) : value_(std::move(members)) {}
inline Json Json::array() { return Json(Items{}); }
inline Json Json::object() { return Json(Members{}); }

/// Parses one JSON text. Throws InputFileError(origin) on a syntax error, a repeated key, a number
/// out of range, or arrays and objects nested deeper than 32.
Json parse_json(std::string_view text, const std::string& origin);

}  // namespace polymoe
