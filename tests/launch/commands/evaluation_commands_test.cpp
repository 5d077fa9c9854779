// SPDX-License-Identifier: Apache-2.0
// What `polymoe eval`, `generate`, `analyze` and `report` answer to bad input, from outside.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::ProcessResult;
using test::run_process;
using test::write_bytes;

/// Beside the tiny model of fixtures/tasks, imported once.
class EvaluationCommands : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::TemporaryDirectory();
    const ProcessResult result =
        run({"checkpoint", "import-hf", POLYMOE_FIXTURES "/tasks", model()});
    ASSERT_EQ(result.exit_code, 0) << result.standard_error;
  }
  static void TearDownTestSuite() {
    delete directory_;
    directory_ = nullptr;
  }

  static std::string path(const std::string& name) { return (directory_->path() / name).string(); }
  static std::string model() { return path("model"); }
  static std::string file(const std::string& name, const std::string& bytes) {
    write_bytes(path(name), bytes);
    return path(name);
  }
  static ProcessResult run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), POLYMOE_PROGRAM);
    return run_process(arguments);
  }
  /// One line of the program, which says all of it.
  static void refuses(const std::vector<std::string>& arguments, int exit_code,
                      const std::vector<std::string>& parts) {
    const ProcessResult result = run(arguments);
    const std::string& text = result.standard_error;
    EXPECT_EQ(result.exit_code, exit_code) << text;
    std::size_t lines = 0, at = 0;
    for (; (at = text.find("polymoe: ", at)) != std::string::npos; ++at)
      lines += at == 0 || text[at - 1] == '\n' ? 1 : 0;
    EXPECT_EQ(lines, 1U) << text;
    for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  static std::vector<std::string> evaluation(const std::string& tasks,
                                             const std::string& tokenizer = tokenizer_file) {
    return {"eval",        "--checkpoint", model(),   "--threads", "1",
            "--tokenizer", tokenizer,      "--tasks", tasks};
  }

  static constexpr const char* tokenizer_file = POLYMOE_FIXTURES "/tokenizers/qwen2.json";
  static test::TemporaryDirectory* directory_;
};
test::TemporaryDirectory* EvaluationCommands::directory_ = nullptr;

TEST_F(EvaluationCommands, NameFileLineAndFaultOfARequestFile) {
  const std::string good = R"({"context": "Q", "choices": [" a", " b"], "gold": 0})"
                           "\n";
  const struct {
    std::string lines;
    std::vector<std::string> parts;
  } cases[] = {
      {"", {"has no items"}},
      {good + R"({"context": "Q", "choices": ["a"]})", {"line 2", "gold"}},
      {good + R"({"context": 7, "choices": ["a"], "gold": 0})", {"line 2", "context"}},
      {good + R"({"context": "Q", "choices": "a", "gold": "0"})", {"line 2", "gold"}},
      {good + R"({"context": "Q", "choices": ["a", 3], "gold": 0})", {"line 2", "choices"}},
      {good + R"({"context": "Q", "choices": ["a"], "gold": 1})", {"line 2", "gold 1"}},
      {good + R"({"context": "Q", "choices": ["a"], "gold": -1})", {"line 2", "gold"}},
      {good + R"({"context": "Q"})", {"line 2", "must have one of them"}},
      {good + "{\"context\": \"\xE9\", \"choices\": [\"a\"], \"gold\": 0}",
       {"line 2", "not UTF-8"}},
      {good + R"({"context": "Q", "choices": ["a")", {"line 2"}},
      {R"({"doc_id": 0, "idx": 0, "label": 3, "request": {"context": "Q", "continuation": "a"}})",
       {"line 1", "label 3"}},
      {R"({"doc_id": 0, "idx": 0, "label": 0, "request": {"context": "Q"}})",
       {"line 1", "continuation"}},
      {R"({"doc_id": 0, "idx": 0, "label": 0, "request": "Q"})", {"line 1", "request"}},
      {R"({"context": "Q", "until": ["\n"], "gold": []})", {"line 1", "gold"}},
      {R"({"context": "Q", "until": [1], "gold": "a"})", {"line 1", "until"}},
  };
  for (const auto& bad : cases) {
    SCOPED_TRACE(bad.lines);
    std::vector<std::string> parts = bad.parts;
    parts.push_back(path("bad.jsonl"));
    refuses(evaluation(file("bad.jsonl", bad.lines)), 65, parts);
  }
  refuses(evaluation(path("absent.jsonl")), 65, {"absent.jsonl"});
  refuses(evaluation(file("torn.jsonl.gz", "\x1F\x8B\x08")), 65, {"torn.jsonl.gz"});
  // The items that are good are answered.
  EXPECT_EQ(run(evaluation(file("good.jsonl", good))).exit_code, 0);
}

TEST_F(EvaluationCommands, NameTheTokenizerThatCannotBeUsed) {
  const std::string tasks = file("t.jsonl", R"({"context": "Q", "choices": ["a"], "gold": 0})");
  const std::string pieces =
      file("pieces.json", R"({"model": {"type": "WordPiece", "vocab": {"a": 0}}})");
  const std::string larger = file("larger.json",
                                  R"({"model": {"type": "BPE", "merges": [],
                                      "vocab": {"Q": 0, "a": 1, "</s>": 70000}}})");
  refuses(evaluation(tasks, pieces), 65, {pieces, "'WordPiece' is not supported: must be BPE"});
  refuses(evaluation(tasks, larger), 65, {larger, "70001 tokens", "model.vocab"});
  refuses(evaluation(tasks, path("none.json")), 65, {"none.json"});
  for (const std::string& tokenizer : {pieces, larger})
    refuses({"generate", "--checkpoint", model(), "--prompt", "Q", "--tokenizer", tokenizer}, 65,
            {tokenizer});
  // None is remembered by an import of a model alone.
  refuses({"eval", "--checkpoint", model(), "--tasks", tasks}, 64, {"--tokenizer"});
}

TEST_F(EvaluationCommands, ContinueManyPromptsInTheirOrder) {
  const auto generation = [&](const std::string& prompts, std::vector<std::string> more = {}) {
    std::vector<std::string> all = {
        "generate",     "--checkpoint", model(), "--threads", "1", "--tokenizer",
        tokenizer_file, "--prompts",    prompts, "--seed",    "5"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  // Other lengths of prompts and, by where the context ends, of answers.
  std::string objects, lines;
  for (int i = 0; i < 5; ++i) {
    std::string text = "A";
    for (int j = 0; j < 2 * i; ++j) text += " word";
    lines += text + "\n";
    objects += R"({"id": "n)" + std::to_string(i) + R"(", "prompt": ")" + text + "\"}\n";
  }
  const std::string file_of_objects = file("p.jsonl", objects);
  const ProcessResult together = run(generation(file_of_objects, {"--json", "--tokens", "6"}));
  ASSERT_EQ(together.exit_code, 0) << together.standard_error;
  std::size_t at = 0;
  for (int i = 0; i < 5; ++i) {
    const std::size_t next =
        together.standard_output.find(R"({"id":"n)" + std::to_string(i) + "\"", at);
    ASSERT_NE(next, std::string::npos) << together.standard_output;
    at = next;
  }
  for (const std::string batch : {"1", "2"})
    EXPECT_EQ(run(generation(file_of_objects, {"--json", "--tokens", "6", "--batch", batch}))
                  .standard_output,
              together.standard_output);
  const ProcessResult text =
      run(generation(file("p.txt", lines), {"--tokens", "3", "--samples", "2"}));
  EXPECT_NE(text.standard_output.find("----- prompt 5 of 5, sample 2 of 2, --seed 6\nA word"),
            std::string::npos)
      << text.standard_output;

  // Of a pipe the first line tells what it has.
  for (const std::string& name : {path("p.jsonl"), path("p.txt")}) {
    const std::string command = std::string("cat ") + name + " | " + POLYMOE_PROGRAM +
                                " generate --checkpoint " + model() + " --threads 1 --tokenizer " +
                                tokenizer_file + " --prompts - --seed 5 --json --tokens 6";
    EXPECT_EQ(run_process({"sh", "-c", command}).standard_output,
              run(generation(name, {"--json", "--tokens", "6"})).standard_output)
        << name;
  }

  const std::string endless = std::string("cat /dev/zero | ") + POLYMOE_PROGRAM +
                              " generate --checkpoint " + model() + " --tokenizer " +
                              tokenizer_file + " --prompts -";
  const ProcessResult refused = run_process({"sh", "-c", endless});
  EXPECT_EQ(refused.exit_code, 65);
  EXPECT_NE(refused.standard_error.find("standard input: has more than 67108864 bytes"),
            std::string::npos)
      << refused.standard_error;

  refuses(generation(path("absent.txt")), 65, {"absent.txt"});
  refuses(generation(file("empty.txt", "")), 65, {"empty.txt", "has no prompts"});
  refuses(generation(file("bad.jsonl", objects + "{\"prompt\": 3}\n")), 65,
          {path("bad.jsonl") + ", line 6", "must be a string"});
  std::string longer = "A";
  for (int j = 0; j < 2000; ++j) longer += " word";
  refuses(generation(file("long.txt", "A\n" + longer)), 65,
          {path("long.txt") + ", line 2", "model.context"});
  refuses(generation(file_of_objects, {"--batch", "0"}), 64, {"--batch 0", "[1, 4096]"});
  for (const std::string samples : {"0", "-1", "1e9", "1.5", "many"})
    refuses(generation(file_of_objects, {"--samples", samples}), 64,
            {"--samples " + samples, "[1, 1048576]"});
  refuses(generation(file_of_objects, {"--tokens", "9223372036854775807"}), 65,
          {path("p.jsonl") + ", line 1", "--tokens 9223372036854775807", "model.context"});
  refuses(generation(file_of_objects, {"--prompt", "A"}), 64,
          {"--prompt, --prompts: only one of them may be given"});
  refuses(generation(file_of_objects, {"--tokens", "0"}), 64,
          {"--tokens 0: must be a whole number of at least 1"});
  const auto alone = [&](const std::string& option, const std::string& prompt) {
    return std::vector<std::string>{"generate",     "--checkpoint", model(), "--tokenizer",
                                    tokenizer_file, option,         prompt};
  };
  refuses(alone("--prompt", longer), 64, {"--prompt of ", "model.context"});
  refuses(alone("--prompt-file", file("long.txt", longer)), 65,
          {path("long.txt") + ": a prompt of ", "model.context"});
  refuses({"generate", "--checkpoint", model(), "--tokenizer", tokenizer_file}, 64,
          {"one of them must be given"});
}

TEST_F(EvaluationCommands, FindOutBeforeTheWorkThatAnOutputCannotBeWritten) {
  const std::string tasks = file("o.jsonl", R"({"context": "Q", "choices": ["a"], "gold": 0})");
  for (const std::string option : {"--json", "--items"}) {
    std::vector<std::string> arguments = evaluation(tasks);
    arguments.insert(arguments.end(), {option, path("nowhere/out")});
    refuses(arguments, 74, {path("nowhere/out")});
    EXPECT_EQ(run(arguments).standard_output, "");
  }
  std::vector<std::string> both = evaluation(tasks);
  both.insert(both.end(), {"--json", path("out"), "--items", path("out")});
  refuses(both, 64, {"--items " + path("out"), "--json"});
  // Nor what is read: a file, the run's, a token file's parts, whatever link leads there.
  fs::create_symlink(tasks, path("link.jsonl"));
  const std::string tokens = file("v.bin", "");
  for (const auto& [output, input] : {std::pair(tasks, "--tasks"),
                                      {path("link.jsonl"), "--tasks"},
                                      {model() + "/config.ini", "--checkpoint"},
                                      {model() + "/checkpoints/a", "--checkpoint"},
                                      {tokens, "--tokens"},
                                      {std::string(tokenizer_file), "--tokenizer"}})
    for (const std::string option : {"--json", "--items"}) {
      const std::string before = fs::exists(output) ? test::read_bytes(output) : "";
      std::vector<std::string> arguments = evaluation(tasks);
      arguments.insert(arguments.end(), {option, output, "--tokens", path("v")});
      refuses(arguments, 64, {option + " " + output, input});
      EXPECT_EQ(fs::exists(output) ? test::read_bytes(output) : "", before);
    }
  std::vector<std::string> beside = evaluation(tasks);
  beside.insert(beside.end(), {"--json", model() + "/scores.json"});
  for (int again = 0; again < 2; ++again) EXPECT_EQ(run(beside).exit_code, 0);
  // What nobody can read is not generated to its end.
  std::string lines;
  for (int i = 0; i < 200; ++i) lines += "A word\n";
  const std::string command = std::string(POLYMOE_PROGRAM) + " generate --checkpoint " + model() +
                              " --threads 1 --tokenizer " + tokenizer_file + " --prompts " +
                              file("lines.txt", lines) + " --tokens 8 --json >/dev/full";
  const ProcessResult full = run_process({"sh", "-c", command});
  EXPECT_EQ(full.exit_code, 74) << full.standard_error;
  EXPECT_NE(full.standard_error.find("standard output: could not be written"), std::string::npos)
      << full.standard_error;
}

TEST_F(EvaluationCommands, AnOutputThatIsLostCostsNoOther) {
  const std::string row = R"({"context": "Q", "choices": [" a", " b"], "gold": 0})"
                          "\n";
  const std::string first = file("first.jsonl", row), second = file("second.jsonl", row + row);
  const std::string command = std::string(POLYMOE_PROGRAM) + " eval --checkpoint " + model() +
                              " --threads 1 --tokenizer " + tokenizer_file + " --tasks " + first +
                              " " + second;
  const auto shell = [](const std::string& text) { return run_process({"sh", "-c", text}); };
  const std::string files = " --json " + path("s.json") + " --items " + path("s.items");
  const ProcessResult whole = shell(command + files);
  ASSERT_EQ(whole.exit_code, 0) << whole.standard_error;
  for (const char* name : {"first ", "second ", "macro average "})
    EXPECT_NE(whole.standard_output.find(std::string("\n") + name), std::string::npos)
        << whole.standard_output;
  const std::string items = test::read_bytes(path("s.items"));
  EXPECT_EQ(std::ranges::count(items, '\n'), 3);

  const auto forget = [] {
    for (const char* name : {"s.json", "s.items"}) fs::remove(path(name));
  };
  // Nobody reads; the exit code is not that of the last command of a pipe.
  forget();
  shell("{ sleep 0.2; " + command + files + "; echo $? >" + path("code") + "; } | true");
  EXPECT_EQ(test::read_bytes(path("code")), "74\n");
  EXPECT_EQ(test::read_bytes(path("s.items")), items);
  EXPECT_NE(test::read_bytes(path("s.json")).find("\"second\""), std::string::npos);
  forget();
  EXPECT_EQ(shell(command + files + " >/dev/full").exit_code, 74);
  EXPECT_EQ(test::read_bytes(path("s.items")), items);
  EXPECT_TRUE(fs::exists(path("s.json")));
  // Either file.
  forget();
  const ProcessResult full = shell(command + " --json /dev/full --items " + path("s.items"));
  EXPECT_EQ(full.exit_code, 74);
  EXPECT_NE(full.standard_error.find("polymoe: /dev/full: "), std::string::npos)
      << full.standard_error;
  EXPECT_EQ(test::read_bytes(path("s.items")), items);
  EXPECT_EQ(shell(command + " --items /dev/full --json " + path("s.json")).exit_code, 74);
  EXPECT_TRUE(fs::exists(path("s.json")));
  EXPECT_EQ(shell(command + " >/dev/full").exit_code, 74);

  // A task is told as soon as it is done: who has read that may end the rest.
  std::string many;
  for (int i = 0; i < 20000; ++i)
    many += R"({"context": "Q", "until": [], "gold": "a", "max_tokens": 64})"
            "\n";
  const ProcessResult ended = shell(
      "mkfifo " + path("told") + "; " + command + " " + file("many.jsonl", many) + " >" +
      path("told") + " & while read -r word rest; do [ \"$word\" != second ] || break; done <" +
      path("told") + "; kill -TERM $!; wait $!");
  EXPECT_EQ(ended.exit_code, 143) << ended.standard_error;
}

TEST_F(EvaluationCommands, AnalyzeNamesWhatItCannotLookAt) {
  const auto analysis = [&](const std::string& tokens) {
    return std::vector<std::string>{"analyze", "--checkpoint", model(),     "--tokens", tokens,
                                    "--out",   path("inside"), "--threads", "1"};
  };
  const std::string few = file("few.npy", std::string(20, '\0'));
  refuses(analysis(few), 65, {few, "one window"});
  const std::string beyond = file("beyond.npy", std::string(2000, '\x7F'));
  refuses(analysis(beyond), 65, {beyond, "32639"});
  refuses({"analyze", "--checkpoint", path("nowhere"), "--out", path("inside")}, 65, {"nowhere"});
  refuses({"analyze", "--checkpoint", model(), "--out", path("inside"), "--against", model()}, 64,
          {"--against", "--tokens"});
  EXPECT_FALSE(fs::exists(path("inside")));
}

TEST_F(EvaluationCommands, ReportReadsWhatACrashLeftAndNamesADamagedRow) {
  const std::string row = R"({"step": 1, "tokens": 10, "loss": 3.5})"
                          "\n";
  fs::create_directories(path("crashed"));
  fs::create_directories(path("damaged"));
  file("crashed/metrics.jsonl", row + R"({"step": 2, "tok)");
  file("damaged/metrics.jsonl", row + "{\"step\": 2, \"tok\n" + row);
  refuses({"report", path("crashed"), "--out", path("crashed/metrics.jsonl")}, 64,
          {"--out " + path("crashed/metrics.jsonl"), "RUN"});
  refuses({"report", path("damaged"), "--out", path("page.html")}, 65,
          {path("damaged/metrics.jsonl"), "line 2"});
  if (std::system("gnuplot --version >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "gnuplot is not installed";
  const ProcessResult result = run({"report", path("crashed"), "--out", path("page.html")});
  EXPECT_EQ(result.exit_code, 0) << result.standard_error;
  // Standard output that is a file has the page from its first byte to its last.
  const ProcessResult shown =
      run_process({"sh", "-c",
                   std::string(POLYMOE_PROGRAM) + " report " + path("crashed") +
                       " --out /dev/stdout >" + path("shown.html")});
  EXPECT_EQ(shown.exit_code, 0) << shown.standard_error;
  EXPECT_NE(shown.standard_error.find("figures of 1 run"), std::string::npos);
  EXPECT_EQ(test::read_bytes(path("shown.html")), test::read_bytes(path("page.html")));
}

}  // namespace
}  // namespace polymoe
