// SPDX-License-Identifier: Apache-2.0
#include "launch/evaluation/task_file.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

std::string line_of(int item, int choice, int label, const std::string& context,
                    const std::string& continuation) {
  return R"({"doc_id": )" + std::to_string(item) + R"(, "idx": )" + std::to_string(choice) +
         R"(, "label": )" + std::to_string(label) + R"(, "request": {"context": ")" + context +
         R"(", "continuation": ")" + continuation + "\"}}\n";
}

class TaskFileTest : public testing::Test {
 protected:
  Task read(const std::string& content) {
    path_ = directory_.path() / "quiz-0shot.jsonl";
    test::write_bytes(path_, content);
    return read_task(path_);
  }
  void refuse(const std::string& content, const std::string& words) {
    const std::string message = test::message_of<InputFileError>([&] { read(content); });
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_NE(message.find("quiz-0shot.jsonl"), std::string::npos) << message;
  }
  test::TemporaryDirectory directory_;
  std::filesystem::path path_;
};

TEST_F(TaskFileTest, GathersTheLinesOfAnItem) {
  const Task task = read(line_of(0, 1, 1, "Q", " b") + line_of(3, 0, 0, "R", " c") +
                         line_of(0, 0, 1, "Q", " a") + "\n" + line_of(0, 1, 1, "Q", " b"));
  EXPECT_EQ(task.name, "quiz-0shot");
  EXPECT_FALSE(task.generates);
  ASSERT_EQ(task.items.size(), 2U);  // the line that repeats counts once
  EXPECT_EQ(task.items[0].context, "Q");
  EXPECT_EQ(task.items[0].choices, (std::vector<std::string>{" a", " b"}));
  EXPECT_EQ(task.items[0].gold, 1);
  EXPECT_TRUE(task.items[0].contexts.empty());
  EXPECT_TRUE(task.items[0].contexts_without.empty());
  EXPECT_EQ(task.items[1].choices, (std::vector<std::string>{" c"}));
}

TEST_F(TaskFileTest, FindsTheFormsWithoutTheQuestion) {
  const Task task =
      read(line_of(5, 0, 0, "Question", " a") + line_of(5, 1, 0, "Question", " b") +
           line_of(1000005, 0, 0, "Answer:", " a") + line_of(1000005, 1, 0, "Answer:", " b") +
           line_of(1000007, 0, 0, "another item", " a"));
  ASSERT_EQ(task.items.size(), 2U);
  EXPECT_EQ(task.items[0].contexts_without, (std::vector<std::string>{"Answer:", "Answer:"}));
  EXPECT_EQ(task.items[1].context, "another item");
}

TEST_F(TaskFileTest, RefusesItemsOfWhichChoicesAreMissing) {
  const std::string question = line_of(0, 0, 0, "q:", " a") + line_of(0, 1, 0, "q:", " b");
  const std::string twin = line_of(1000000, 0, 0, "A:", " a");
  refuse(question + twin,
         "line 3: doc_id 1000000, that item without its question, has no idx 1, "
         "which doc_id 0 has");
  refuse(question + twin + line_of(1000000, 1, 0, "A:", " c"),
         "line 3: doc_id 1000000, that item without its question, has another continuation than "
         "doc_id 0 at idx 1");
  refuse(question + twin + line_of(1000000, 1, 0, "A:", " b") + line_of(1000000, 2, 0, "A:", " c"),
         "line 3: doc_id 1000000, that item without its question, has an idx 2, which doc_id 0 "
         "lacks");
  refuse(question + line_of(1000000, 1, 0, "A:", " b"), "line 3: doc_id 1000000 has no idx 0");
  // Nothing in common: an item of its own.
  EXPECT_EQ(read(question + line_of(1000000, 0, 0, "A:", " x")).items.size(), 2U);
  // A file that ends early, of lines that tell how many choices there are.
  const auto told = [](int item, int choice, int all) {
    std::string list = R"("x")";
    for (int i = 1; i < all; ++i) list += R"(, "x")";
    std::string line = line_of(item, choice, 0, "Q", " " + std::to_string(choice));
    line.insert(1, R"("doc": {"choices": [)" + list + "]}, ");
    return line;
  };
  const std::string first = told(7, 0, 3) + told(7, 1, 3) + told(7, 2, 3);
  EXPECT_EQ(read(first + told(8, 0, 2) + told(8, 1, 2)).items.size(), 2U);
  refuse(first + told(8, 0, 2), "line 4: doc_id 8 has 1 of the 2 choices that its doc lists");
  refuse(told(7, 0, 3) + told(7, 1, 3), "line 1: doc_id 7 has 2 of the 3 choices");
}

TEST_F(TaskFileTest, ReadsTheSimpleForms) {
  const Task choices =
      read(R"({"context": "Q:", "choices": [" é", " b"], "gold": 1, "context_without": "A:"})"
           "\n");
  ASSERT_EQ(choices.items.size(), 1U);
  EXPECT_EQ(choices.items[0].contexts_without.size(), 2U);
  const Task generation =
      read(R"({"context": "2+2=", "until": "\n", "gold": ["4", "four"], "max_tokens": 3})");
  EXPECT_TRUE(generation.generates);
  EXPECT_EQ(generation.items[0].until, std::vector<std::string>{"\n"});
  EXPECT_EQ(generation.items[0].answers, (std::vector<std::string>{"4", "four"}));
  EXPECT_EQ(generation.items[0].max_tokens, 3);
}

TEST_F(TaskFileTest, TasksOfOneNameAreToldApartByTheirFolders) {
  std::vector<std::filesystem::path> paths;
  for (const char* folder : {"a", "b"}) {
    std::filesystem::create_directory(directory_.path() / folder);
    paths.push_back(directory_.path() / folder / "t.jsonl");
    test::write_bytes(paths.back(), line_of(0, 0, 0, "Q", " a"));
  }
  const std::vector<Task> tasks = read_tasks({paths[0], paths[1], paths[1]});
  EXPECT_EQ(tasks[0].name, "a-t");
  EXPECT_EQ(tasks[1].name, "b-t");
  EXPECT_EQ(tasks[2].name, "b-t-2");

  // One file keeps a name that another would get by number or folder; none is called as the mean.
  const auto names = [&](const std::vector<std::string>& files) {
    std::vector<std::filesystem::path> all;
    for (const std::string& name : files) {
      all.push_back(directory_.path() / name);
      std::filesystem::create_directories(all.back().parent_path());
      test::write_bytes(all.back(), R"({"context": "a", "choices": ["b"], "gold": 0})");
    }
    std::vector<std::string> found;
    for (const Task& task : read_tasks(all)) found.push_back(task.name);
    return found;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names({"d/d-t-2.jsonl", "d/t.jsonl", "d/t.jsonl"}), (Names{"d-t-2", "d-t", "d-t-3"}));
  EXPECT_EQ(names({"d/t.jsonl", "d/t.jsonl", "d/d-t.jsonl"}), (Names{"d-t-2", "d-t-3", "d-t"}));
  EXPECT_EQ(names({"d/macro.jsonl", "d/t.jsonl"}), (Names{"d-macro", "t"}));
  EXPECT_EQ(names({"d/macro.jsonl", "d/macro.jsonl", "e/macro.json"}),
            (Names{"d-macro", "d-macro-2", "e-macro"}));
}

TEST_F(TaskFileTest, SaysWhatIsWrongAndWhere) {
  const std::string good = line_of(0, 0, 0, "Q", " a");
  refuse("", "has no items");
  refuse(good + "{\"context\": \n", "line 2");
  refuse(good + "[1]\n", "line 2: is not a JSON object");
  refuse(good + "{\"context\": \"Q\"}\n", "line 2: has none of request, choices, until");
  refuse(good + R"({"context": "Q", "choices": ["a"], "gold": 0})", "line 2: is of another form");
  refuse(good + R"({"doc_id": 1, "idx": 0, "label": 0, "request": {"context": "Q"}})",
         "line 2: continuation: ");
  refuse(good + R"({"doc_id": 1, "label": 0, "request": {"context": "Q", "continuation": "a"}})",
         "line 2: idx: ");
  refuse(
      good +
          R"({"doc_id": "x", "idx": 0, "label": 0, "request": {"context": "Q", "continuation": "a"}})",
      "line 2: doc_id: ");
  refuse(line_of(0, 0, 1, "Q", " a"), "line 1: label 1: the item has 1 choices, 0 to 0");
  refuse(R"({"context": "Q", "choices": ["a", "b"], "gold": 2})", "line 1: gold 2");
  refuse(R"({"context": "Q", "choices": [], "gold": 0})", "line 1: choices");
  refuse(good + line_of(0, 2, 0, "Q", " c"), "doc_id 0 has no idx 1");
  refuse(good + line_of(0, 0, 0, "Q", " other"), "line 2: doc_id 0, idx 0 was another request");
  refuse(good + line_of(0, 1, 1, "Q", " b"), "line 2: label 1");
  refuse(good + "{\"context\": \"\xFF\"}\n", "line 2: is not UTF-8");
  refuse(R"({"context": "Q", "until": [], "gold": [], "max_tokens": 3})", "line 1: gold");
}

}  // namespace
}  // namespace polymoe
