// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/task_file.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/data/names_apart.h"
#include "launch/data/unicode_text.h"
#include "runtime/error.h"
#include "runtime/files/compressed_text.h"
#include "runtime/files/json.h"

namespace polymoe {
namespace {

constexpr std::int64_t most_bytes = std::int64_t{4} << 30;
constexpr std::int64_t without_question = 1'000'000;  // added to the doc_id

const std::vector<std::string_view> endings = {".gz", ".zst", ".jsonl", ".json"};

/// An item whose choices come line by line.
struct Gathered {
  struct Choice {
    std::string context, continuation;
  };
  std::map<std::int64_t, Choice> choices;  // by idx
  std::int64_t label = 0;
  std::int64_t line = 0;       // the first one
  std::int64_t all = unknown;  // choices that its `doc` lists

  static constexpr std::int64_t unknown = -1;
};

/// Choices that the `doc` of a request lists, as the harnesses that write these files have it.
std::int64_t listed_choices(const Json& request_line) {
  const Json* doc = request_line.find("doc");
  if (doc == nullptr || !doc->is_object()) return Gathered::unknown;
  const Json* choices = doc->find("choices");
  return choices != nullptr && choices->is_array() ? std::ssize(choices->items())
                                                   : Gathered::unknown;
}

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : path_(path) {}

  Task read() {
    task_.name = names_apart({path_}, endings)[0];
    task_.path = path_;
    const std::string text = read_compressed_file(path_, most_bytes);
    std::string_view rest = text;
    while (!rest.empty()) {
      ++line_;
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      read_line(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    finish_gathered();
    if (task_.items.empty()) throw InputFileError(path_.string(), "has no items");
    return std::move(task_);
  }

 private:
  enum class Form { none, lines, choices, generation };

  [[noreturn]] void fail(std::int64_t line, const std::string& cause) const {
    throw InputFileError(fmt::format("{}, line {}", path_.string(), line), cause);
  }

  void read_line(std::string_view line) {
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
    if (!is_valid_utf8(line)) fail(line_, "is not UTF-8");
    const Json json = parse_json(line, fmt::format("{}, line {}", path_.string(), line_));
    if (!json.is_object()) fail(line_, "is not a JSON object");
    const Form form = json.find("request") != nullptr   ? Form::lines
                      : json.find("choices") != nullptr ? Form::choices
                      : json.find("until") != nullptr   ? Form::generation
                                                        : Form::none;
    if (form == Form::none)
      fail(line_, "has none of request, choices, until: must have one of them");
    if (form_ != Form::none && form != form_)
      fail(line_, "is of another form than the lines before");
    form_ = form;
    try {
      if (form == Form::lines) read_request(json);
      if (form == Form::choices) read_choices(json);
      if (form == Form::generation) read_generation(json);
    } catch (const InputFileError&) {
      throw;
    } catch (const InvalidArgument& error) {
      fail(line_, error.what());
    }
  }

  template <class Get>
  static auto field(const Json& json, const char* name, Get get) {
    try {
      return get(json.at(name));
    } catch (const InvalidArgument& error) {
      throw InvalidArgument(fmt::format("{}: {}", name, error.what()));
    }
  }
  static std::string text(const Json& json, const char* name) {
    return field(json, name, [](const Json& value) { return value.as_string(); });
  }
  static std::int64_t integer(const Json& json, const char* name) {
    return field(json, name, [](const Json& value) { return value.as_integer(0); });
  }
  /// A text, or a list of them.
  static std::vector<std::string> texts(const Json& json, const char* name) {
    return field(json, name, [](const Json& value) {
      if (value.is_string()) return std::vector<std::string>{value.as_string()};
      std::vector<std::string> list;
      for (const Json& item : value.items()) list.push_back(item.as_string());
      return list;
    });
  }

  void read_request(const Json& json) {
    const std::int64_t item = integer(json, "doc_id"), choice = integer(json, "idx");
    const std::int64_t label = integer(json, "label");
    const Json& request = json.at("request");
    if (!request.is_object()) fail(line_, "request: must be an object");
    const Gathered::Choice read{.context = text(request, "context"),
                                .continuation = text(request, "continuation")};
    if (read.continuation.empty()) fail(line_, "continuation: must not be empty");
    Gathered& gathered = gathered_[item];
    if (gathered.line == 0) {
      gathered.line = line_;
      gathered.label = label;
      gathered.all = listed_choices(json);
    }
    if (gathered.label != label)
      fail(line_, fmt::format("label {}: doc_id {} has the label {} in line {}", label, item,
                              gathered.label, gathered.line));
    const auto [known, is_new] = gathered.choices.emplace(choice, read);
    if (!is_new &&
        (known->second.context != read.context || known->second.continuation != read.continuation))
      fail(line_, fmt::format("doc_id {}, idx {} was another request before", item, choice));
  }

  void read_choices(const Json& json) {
    TaskItem item{.context = text(json, "context"), .choices = texts(json, "choices")};
    item.gold = integer(json, "gold");
    item.line = line_;
    for (const std::string& choice : item.choices)
      if (choice.empty()) fail(line_, "choices: none may be empty");
    if (json.find("context_without") != nullptr)
      item.contexts_without.assign(item.choices.size(), text(json, "context_without"));
    check_gold(item, "gold");
    task_.items.push_back(std::move(item));
  }

  void read_generation(const Json& json) {
    task_.generates = true;
    TaskItem item{.context = text(json, "context"), .choices = {}};
    item.until = texts(json, "until");
    item.answers = texts(json, "gold");
    item.max_tokens = json.find("max_tokens") != nullptr ? integer(json, "max_tokens") : 64;
    item.line = line_;
    if (item.max_tokens < 1) fail(line_, "max_tokens 0: must be at least 1");
    if (item.answers.empty()) fail(line_, "gold: must hold an answer");
    for (const std::string& end : item.until)
      if (end.empty()) fail(line_, "until: none may be empty");
    task_.items.push_back(std::move(item));
  }

  void check_gold(const TaskItem& item, const char* field) const {
    const auto choices = static_cast<std::int64_t>(item.choices.size());
    if (choices < 1) fail(item.line, "choices: must hold one");
    if (item.gold >= choices)
      fail(item.line, fmt::format("{} {}: the item has {} choices, 0 to {}", field, item.gold,
                                  choices, choices - 1));
  }

  /// An item of which choices are missing, as where the file was torn.
  void check_complete(std::int64_t id, const Gathered& gathered) const {
    std::int64_t expected = 0;
    for (const auto& [index, choice] : gathered.choices)
      if (index != expected++)
        fail(gathered.line, fmt::format("doc_id {} has no idx {}", id, expected - 1));
    if (gathered.all != Gathered::unknown && gathered.all != expected)
      fail(gathered.line, fmt::format("doc_id {} has {} of the {} choices that its doc lists", id,
                                      expected, gathered.all));
  }

  /// What has some continuations of an item but not all is no item of its own.
  void check_no_twin(std::int64_t id, const Gathered& item, const Gathered& other) const {
    const auto continuation = [](const Gathered& of, std::int64_t index) {
      const auto found = of.choices.find(index);
      return found == of.choices.end() ? std::string() : found->second.continuation;
    };
    bool alike = false;
    std::int64_t differs = -1;
    const std::int64_t most = std::max(std::ssize(item.choices), std::ssize(other.choices));
    for (std::int64_t i = 0; i < most; ++i) {
      const bool same = continuation(item, i) == continuation(other, i);
      alike = alike || same;
      if (!same && differs < 0) differs = i;
    }
    if (!alike || differs < 0) return;
    const std::int64_t of_item = id - without_question;
    std::string cause =
        fmt::format("has another continuation than doc_id {} at idx {}", of_item, differs);
    if (!other.choices.contains(differs))
      cause = fmt::format("has no idx {}, which doc_id {} has", differs, of_item);
    if (!item.choices.contains(differs))
      cause = fmt::format("has an idx {}, which doc_id {} lacks", differs, of_item);
    fail(other.line, fmt::format("doc_id {}, that item without its question, {}", id, cause));
  }

  /// Whether `other` is `item` without the question.
  static bool same_continuations(const Gathered& item, const Gathered& other) {
    if (item.choices.size() != other.choices.size()) return false;
    for (const auto& [index, choice] : item.choices) {
      const auto found = other.choices.find(index);
      if (found == other.choices.end() || found->second.continuation != choice.continuation)
        return false;
    }
    return true;
  }

  void finish_gathered() {
    for (const auto& [id, gathered] : gathered_) {
      const auto question = gathered_.find(id - without_question);
      check_complete(id, gathered);
      if (question != gathered_.end()) {
        if (same_continuations(question->second, gathered)) continue;
        check_no_twin(id, question->second, gathered);
      }
      TaskItem item{.context = gathered.choices.begin()->second.context, .choices = {}};
      item.gold = gathered.label;
      item.line = gathered.line;
      bool contexts_differ = false;
      for (const auto& [index, choice] : gathered.choices) {
        item.choices.push_back(choice.continuation);
        item.contexts.push_back(choice.context);
        contexts_differ = contexts_differ || choice.context != item.context;
      }
      if (!contexts_differ) item.contexts.clear();
      const auto without = gathered_.find(id + without_question);
      if (without != gathered_.end() && same_continuations(gathered, without->second))
        for (const auto& [index, choice] : without->second.choices)
          item.contexts_without.push_back(choice.context);
      check_gold(item, "label");
      task_.items.push_back(std::move(item));
    }
  }

  std::filesystem::path path_;
  std::int64_t line_ = 0;
  Form form_ = Form::none;
  std::map<std::int64_t, Gathered> gathered_;  // by doc_id
  Task task_;
};

}  // namespace

Task read_task(const std::filesystem::path& path) { return Reader(path).read(); }

std::vector<Task> read_tasks(const std::vector<std::filesystem::path>& paths) {
  const std::vector<std::string> names =
      names_apart(paths, endings, {std::string(macro_average_name)});
  std::vector<Task> tasks;
  for (const std::filesystem::path& path : paths) {
    tasks.push_back(read_task(path));
    tasks.back().name = names[tasks.size() - 1];
  }
  return tasks;
}

}  // namespace polymoe
