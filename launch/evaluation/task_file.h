// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace polymoe {

/// A question with answers to choose from, or one whose answer is generated.
struct TaskItem {
  std::string context = {};
  std::vector<std::string> choices = {};  // of a question with choices: the continuations
  std::int64_t gold = 0;                  // which of them is right
  /// Contexts of the choices that say nothing of the question, for normalisation; empty: none.
  std::vector<std::string> contexts_without = {};
  /// Contexts of the single choices where they differ from `context`; empty: they do not.
  std::vector<std::string> contexts = {};

  std::vector<std::string> until = {};    // texts that end a generated answer
  std::vector<std::string> answers = {};  // that are right
  std::int64_t max_tokens = 0;            // of a generated answer

  std::int64_t line = 0;  // in the file, from 1

  const std::string& context_of(std::size_t choice) const {
    return contexts.empty() ? context : contexts[choice];
  }
};

/// A set of questions of one kind.
struct Task {
  std::string name = {};  // of its file, without .jsonl, .gz, .zst; see names_apart
  std::filesystem::path path = {};
  bool generates = false;
  std::vector<TaskItem> items = {};
};

/// Reads a request file: one JSON object a line, plain or packed by gzip or zstd, in one of the
/// forms
///   {"doc_id": 0, "idx": 1, "label": 0, "request": {"context": "...", "continuation": "..."}}
///     a line per choice. Lines that repeat (same doc_id and idx) count once. An item whose doc_id
///     is 1000000 more than another's, with the same continuations, is its form without the
///     question; with some of them it is refused. So is an item with other than the choices that
///     `doc.choices` lists, where the lines have that;
///   {"context": "...", "choices": ["...", "..."], "gold": 0}  and maybe "context_without": "...";
///   {"context": "...", "until": ["\n"], "gold": "..."}  or several golds, maybe "max_tokens": 64.
/// Throws InputFileError with file, line and what is wrong there.
Task read_task(const std::filesystem::path& path);

/// What the mean over tasks is called beside their names: "eval/macro/acc".
constexpr std::string_view macro_average_name = "macro";

/// Several of them, each with a name of its own, which is not that of their mean.
std::vector<Task> read_tasks(const std::vector<std::filesystem::path>& paths);

}  // namespace polymoe
