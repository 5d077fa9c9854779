// SPDX-License-Identifier: Apache-2.0
// What `polymoe eval`, `generate` and `train` make of a model with values that are not finite, from
// outside.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/process.h"

namespace polymoe {
namespace {

using test::ProcessResult;
using test::run_process;

class NotFiniteModel : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }
  std::string file(const std::string& name, const std::string& bytes) const {
    test::write_bytes(path(name), bytes);
    return path(name);
  }
  static ProcessResult run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), POLYMOE_PROGRAM);
    return run_process(arguments);
  }
  static void refuses(const std::vector<std::string>& arguments, int exit_code,
                      const std::vector<std::string>& parts) {
    const ProcessResult result = run(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.standard_error;
    for (const std::string& part : parts)
      EXPECT_NE(result.standard_error.find(part), std::string::npos)
          << part << " in " << result.standard_error;
  }
  std::vector<std::string> evaluation(const std::string& tasks) const {
    return {"eval",        "--checkpoint", path("nan"), "--threads", "1",
            "--tokenizer", tokenizer_file, "--tasks",   tasks};
  }

  static constexpr const char* tokenizer_file = POLYMOE_FIXTURES "/tokenizers/qwen2.json";
  test::TemporaryDirectory directory_;
};

TEST_F(NotFiniteModel, RefuseAModelWhoseValuesAreNotFinite) {
  std::filesystem::copy(POLYMOE_FIXTURES "/tasks", path("broken"));
  std::string bytes = test::read_bytes(path("broken/model.safetensors"));
  bytes.replace(bytes.size() - 4, 4, "\xC0\x7F\xC0\x7F");  // the last value, whatever its width
  test::write_bytes(path("broken/model.safetensors"), bytes);
  const ProcessResult imported = run({"checkpoint", "import-hf", path("broken"), path("nan")});
  ASSERT_EQ(imported.exit_code, 0) << imported.standard_error;
  const std::string choices = file("finite.jsonl",
                                   "\n"
                                   R"({"context": "Q", "choices": [" a", " b"], "gold": 0})"
                                   "\n");
  const std::string answers =
      file("answers.jsonl", R"({"context": "Q", "until": ["."], "gold": "a"})"
                            "\n");
  refuses(evaluation(choices), 65,
          {path("nan") + "/checkpoints/",
           "finite.jsonl, line 2: the log-likelihood of choice 0 is nan"});
  refuses(evaluation(answers), 65,
          {path("nan") + "/checkpoints/", "answers.jsonl: the logit of token 0 is nan"});
  for (const std::string& task : {choices, answers})
    EXPECT_EQ(run(evaluation(task)).standard_output.find("items"), std::string::npos);
  const std::vector<std::string> prompt = {"generate", "--checkpoint", path("nan"),    "--threads",
                                           "1",        "--tokenizer",  tokenizer_file, "--prompt",
                                           "Question"};
  refuses(prompt, 65, {path("nan") + "/checkpoints/", "the logit of token 0 is nan"});
  EXPECT_EQ(run(prompt).standard_output, "");
}

/// The last step is finite, what its update leaves is not: the run has ended, and not well.
TEST_F(NotFiniteModel, ARunWhoseLastScoringIsNotFiniteDoesNotEndWell) {
  const std::string text = file("words.txt", std::string(600, 'a') + std::string(600, 'b'));
  ASSERT_EQ(run({"tokenize", "--tokenizer", "bytes", "--input", text, "--output", path("words")})
                .exit_code,
            0);
  const std::string choices =
      file("short.jsonl", R"({"context": "a", "choices": ["a", "b"], "gold": 0})"
                          "\n");
  const std::vector<std::string> training = {"train",
                                             "--model.layers=1",
                                             "--model.hidden=16",
                                             "--model.heads=2",
                                             "--model.vocab=257",
                                             "--model.context=16",
                                             "--data.train=" + path("words.bin"),
                                             "--train.global_batch=2",
                                             "--train.steps=1",
                                             "--optimizer.lr=1e38",
                                             "--optimizer.schedule=constant",
                                             "--optimizer.warmup=0",
                                             "--eval.tasks=" + choices,
                                             "--eval.tokenizer=bytes",
                                             "--run.threads=1",
                                             "--run.device=cpu",
                                             "--run.dir=" + path("diverged")};
  for (int start = 0; start < 2; ++start) {
    const ProcessResult result = run(training);
    EXPECT_EQ(result.exit_code, 86) << result.standard_error;
    for (const char* part :
         {"the scoring of step 1 has no result: ", "short.jsonl, line 1: the log-likelihood of",
          "the model of step 1 has values that are not finite", "exit code 86"})
      EXPECT_NE(result.standard_error.find(part), std::string::npos)
          << part << " in " << result.standard_error;
  }
  EXPECT_EQ(test::read_bytes(path("diverged/metrics.jsonl")).find("eval/"), std::string::npos);
}

}  // namespace
}  // namespace polymoe
