// SPDX-License-Identifier: Apache-2.0
#include "runtime/files/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/error.h"

namespace polymoe {
namespace {

constexpr std::size_t max_depth = 32;

void append_number(std::string& text, double value) {
  if (!std::isfinite(value)) {
    text += "null";
    return;
  }
  std::array<char, 32> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  const std::string_view number(digits.data(), static_cast<std::size_t>(end - digits.data()));
  text += number;
  if (number.find_first_of(".e") == std::string_view::npos) text += ".0";
}

void append_string(std::string& text, const std::string& value) {
  text += nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Builds a Json from nlohmann's parser events, refusing what that parser lets pass.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Json result;
  std::string error;

  bool null() override { return put(Json()); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return refuse("binary value"); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!open_.back().keys.insert(name).second)
      return refuse("the key " + Json(name).dump() + " repeats");
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& exception) override {
    // The library's own text starts with a code in brackets.
    const std::string_view what = exception.what();
    const std::size_t bracket = what.find("] ");
    return refuse("byte " + std::to_string(position) + ": " +
                  std::string(bracket == std::string_view::npos ? what : what.substr(bracket + 2)));
  }

 private:
  struct Level {
    Json value;
    std::string key;                       // of the value itself within the level above
    std::unordered_set<std::string> keys;  // of its members so far
  };

  bool refuse(const std::string& cause) {
    if (error.empty()) error = cause;
    return false;
  }
  bool open(Json value) {
    if (open_.size() == max_depth) {
      return refuse("nested deeper than " + std::to_string(max_depth) + " levels");
    }
    open_.push_back({std::move(value), std::move(key_), {}});
    return true;
  }
  bool close() {
    Level level = std::move(open_.back());
    open_.pop_back();
    key_ = std::move(level.key);
    return put(std::move(level.value));
  }
  bool put(Json value) {
    if (open_.empty()) {
      result = std::move(value);
    } else if (open_.back().value.is_array()) {
      open_.back().value.add(std::move(value));
    } else {
      open_.back().value.set(std::move(key_), std::move(value));
    }
    return true;
  }

  std::vector<Level> open_;
  std::string key_;
};

}  // namespace

Json& Json::add(Json value) {
  if (!is_array()) fail("an array");
  std::get<Items>(value_).push_back(std::move(value));
  return *this;
}

Json& Json::set(std::string key, Json value) {
  if (!is_object()) fail("an object");
  std::get<Members>(value_).push_back({std::move(key), std::move(value)});
  return *this;
}

void Json::fail(const std::string& expected) const {
  std::string found = dump();
  if (found.size() > 40) found = found.substr(0, 40) + "...";
  throw InvalidArgument("expected " + expected + ", found " + found);
}

bool Json::as_bool() const {
  if (const bool* value = std::get_if<bool>(&value_)) return *value;
  fail("true or false");
}

std::int64_t Json::as_integer(std::int64_t minimum, std::int64_t maximum) const {
  const auto* value = std::get_if<std::int64_t>(&value_);
  if (value == nullptr || *value < minimum || *value > maximum) {
    fail("an integer in [" + std::to_string(minimum) + ", " + std::to_string(maximum) + "]");
  }
  return *value;
}

std::uint64_t Json::as_unsigned() const {
  if (const auto* value = std::get_if<std::uint64_t>(&value_)) return *value;
  const auto* value = std::get_if<std::int64_t>(&value_);
  if (value == nullptr || *value < 0) fail("an integer of at least 0");
  return static_cast<std::uint64_t>(*value);
}

double Json::as_number() const {
  if (const auto* value = std::get_if<double>(&value_)) return *value;
  if (const auto* value = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<std::uint64_t>(&value_)) return static_cast<double>(*value);
  fail("a number");
}

const std::string& Json::as_string() const {
  if (const auto* value = std::get_if<std::string>(&value_)) return *value;
  fail("a string");
}

const std::vector<Json>& Json::items() const {
  if (const auto* value = std::get_if<Items>(&value_)) return *value;
  fail("an array");
}

const std::vector<Json::Member>& Json::members() const {
  if (const auto* value = std::get_if<Members>(&value_)) return *value;
  fail("an object");
}

const Json* Json::find(std::string_view key) const {
  const auto& all = members();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Member& member) { return member.key == key; });
  return found == all.end() ? nullptr : &found->value;
}

const Json& Json::at(std::string_view key) const {
  if (const Json* value = find(key)) return *value;
  throw InvalidArgument("the key \"" + std::string(key) + "\" is missing");
}

std::string Json::dump() const {
  std::string text;
  append_to(text, 0, 0);
  return text;
}

std::string Json::dump_indented() const {
  std::string text;
  append_to(text, 2, 0);
  return text + "\n";
}

void Json::append_to(std::string& text, int indent, int level) const {
  if (is_null()) {
    text += "null";
  } else if (const bool* flag = std::get_if<bool>(&value_)) {
    text += *flag ? "true" : "false";
  } else if (const auto* integer = std::get_if<std::int64_t>(&value_)) {
    text += std::to_string(*integer);
  } else if (const auto* large = std::get_if<std::uint64_t>(&value_)) {
    text += std::to_string(*large);
  } else if (const auto* number = std::get_if<double>(&value_)) {
    append_number(text, *number);
  } else if (const auto* string = std::get_if<std::string>(&value_)) {
    append_string(text, *string);
  } else {
    append_container(text, indent, level);
  }
}

void Json::append_container(std::string& text, int indent, int level) const {
  const auto* items = std::get_if<Items>(&value_);
  const auto* members = std::get_if<Members>(&value_);
  const auto nested = [](const Json& value) { return value.is_array() || value.is_object(); };
  const bool flat = items != nullptr
                        ? std::none_of(items->begin(), items->end(), nested)
                        : std::none_of(members->begin(), members->end(),
                                       [&](const Member& member) { return nested(member.value); });
  const auto new_line = [&](int at) {
    if (indent > 0) text.append(1, '\n').append(static_cast<std::size_t>(indent * at), ' ');
  };
  const auto separate = [&](bool first) {
    if (!first) text += flat && indent > 0 ? ", " : ",";
    if (!flat) new_line(level + 1);
  };
  text += items != nullptr ? '[' : '{';
  bool first = true;
  if (items != nullptr) {
    for (const Json& item : *items) {
      separate(std::exchange(first, false));
      item.append_to(text, indent, level + 1);
    }
  } else {
    for (const Member& member : *members) {
      separate(std::exchange(first, false));
      append_string(text, member.key);
      text += indent > 0 ? ": " : ":";
      member.value.append_to(text, indent, level + 1);
    }
  }
  if (!flat) new_line(level);
  text += items != nullptr ? ']' : '}';
}

Json parse_json(std::string_view text, const std::string& origin) {
  Builder builder;
  if (!nlohmann::json::sax_parse(text, &builder)) {
    throw InputFileError(origin, "not the JSON expected: " + builder.error);
  }
  return std::move(builder.result);
}

}  // namespace polymoe
