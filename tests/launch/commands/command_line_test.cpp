// SPDX-License-Identifier: Apache-2.0
// The built program from outside: what a user does wrong gets one clear line and an exit code.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/files/megatron_writer.h"
#include "tests/support/process.h"
#include "tests/support/program.h"

namespace polymoe {
namespace {

using test::expect_refusal;
using test::ProcessResult;
using test::read_bytes;
using test::run_process;
using test::run_program;
using test::TemporaryDirectory;
using test::write_bytes;

class CommandLineTest : public ::testing::Test {
 protected:
  static ProcessResult run_on_ranks(int ranks, std::vector<std::string> arguments) {
    const std::vector<std::string> launcher = {POLYMOE_LAUNCHER, std::to_string(ranks),
                                               POLYMOE_PROGRAM};
    arguments.insert(arguments.begin(), launcher.begin(), launcher.end());
    return run_process(arguments);
  }

  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }

  // A training that would run if nothing were wrong with it.
  std::vector<std::string> training(std::vector<std::string> overrides) const {
    std::vector<std::string> arguments = {"train", "--config", path("tiny.ini"),
                                          "--run.dir=" + path("run"),
                                          "--data.train=" + path("tokens")};
    // Later spellings replace earlier ones.
    for (const std::string& override_ : overrides) {
      const std::string key = override_.substr(0, override_.find('=') + 1);
      std::erase_if(arguments,
                    [&](const std::string& argument) { return argument.starts_with(key); });
      arguments.push_back(override_);
    }
    return arguments;
  }

  void SetUp() override {
    write_bytes(path("tiny.ini"),
                "[model]\nlayers = 1\nhidden = 16\nheads = 2\nvocab = 64\ncontext = 8\n"
                "[moe]\nexperts = 4\ntop_k = 2\n"
                "[train]\nsteps = 2\nglobal_batch = 4\nmicro_batch = 1\n");
    write_tokens("tokens", 64);
  }
  void write_tokens(const std::string& name, std::int32_t ids) const {
    std::vector<std::int32_t> tokens(400);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<std::int32_t>(i * 7) % ids;
    MegatronWriter writer(path(name), 60000);
    writer.add(tokens);
    writer.finish();
  }

  TemporaryDirectory directory_;
};

TEST_F(CommandLineTest, HelpAndVersion) {
  const ProcessResult help = run_program({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(help.standard_error, "");
  for (const char* command :
       {"train", "eval", "generate", "tokenize", "data", "plan", "bench", "checkpoint"}) {
    EXPECT_NE(help.standard_output.find("\n  " + std::string(command) + " "), std::string::npos);
    const ProcessResult its_help = run_program({command, "--help"});
    EXPECT_EQ(its_help.exit_code, 0);
    EXPECT_NE(its_help.standard_output.find("polymoe " + std::string(command)), std::string::npos);
    EXPECT_EQ(its_help.standard_error, "");
  }
  const ProcessResult family = run_program({"checkpoint", "--help"});
  for (const char* command : {"inspect", "verify", "diff", "convert", "prune"}) {
    EXPECT_NE(family.standard_output.find("\n  " + std::string(command) + " "), std::string::npos);
    const ProcessResult its_help = run_program({"checkpoint", command, "--help"});
    EXPECT_EQ(its_help.exit_code, 0);
    EXPECT_NE(its_help.standard_output.find("polymoe checkpoint " + std::string(command)),
              std::string::npos);
  }
  const std::string keys = run_program({"train", "--help"}).standard_output;
  for (const char* key : {"model.activation", "moe.top_k", "optimizer.warmup", "run.threads"})
    EXPECT_NE(keys.find(key), std::string::npos) << key;
  EXPECT_EQ(run_program({"help", "train"}).standard_output, keys);
  const std::string section = run_program({"train", "--help", "optimizer"}).standard_output;
  EXPECT_NE(section.find("optimizer.warmup"), std::string::npos) << section;
  EXPECT_EQ(section.find("model.layers"), std::string::npos) << section;
  EXPECT_EQ(run_program({"help", "train", "optimizer"}).standard_output, section);
  EXPECT_EQ(run_program({"help"}).standard_output, help.standard_output);
  expect_refusal(run_program({"train", "--help", "nothing"}), 64, {"--help nothing", "no key"});
  const ProcessResult version = run_program({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  for (const char* library :
       {"polymoe ", "MPI", "HDF5", "oneDNN", "Boost", "CUDA ", "vectors of this processor ", "GPU"})
    EXPECT_NE(version.standard_output.find(library), std::string::npos) << library;
}

TEST_F(CommandLineTest, UsageErrors) {
  expect_refusal(run_program({}), 64, {"no command", "--help"});
  expect_refusal(run_program({"trian"}), 64, {"'trian'", "did you mean 'train'?"});
  expect_refusal(run_program({"--verbose"}), 64, {"--verbose"});
  expect_refusal(run_program({"checkpoint"}), 64, {"'checkpoint'", "polymoe checkpoint --help"});
  expect_refusal(run_program({"checkpoint", "inspcet", "x"}), 64,
                 {"did you mean 'checkpoint inspect'?"});
  expect_refusal(run_program({"checkpoint", "inspect"}), 64, {"checkpoint inspect needs DIR"});
  expect_refusal(run_program({"checkpoint", "inspect", "a", "b"}), 64, {"'b'"});
  expect_refusal(run_program({"checkpoint", "inspect", path("absent")}), 65, {"absent"});
  expect_refusal(run_program({"plan", "--confg", "x"}), 64, {"--confg", "did you mean --config?"});
  expect_refusal(run_program({"plan", "--conf", "x"}), 64, {"--conf: unknown option"});
  expect_refusal(run_program({"train", "--steps", "5"}), 64,
                 {"--steps", "did you mean --train.steps=VALUE?"});
  expect_refusal(run_program({"frobnicate"}), 64,
                 {"'frobnicate': unknown command (polymoe --help"});
  expect_refusal(run_program({"plan", "stray"}), 64,
                 {"'stray': unexpected argument; did you mean --config stray?"});
  expect_refusal(run_program({"tokenize", "a.txt"}), 64, {"did you mean --input a.txt?"});
  expect_refusal(run_program({"plan", "-ranks=2"}), 64, {"'-ranks=2'", "did you mean --ranks?"});
  expect_refusal(run_program({"generate", "--max-tokens", "3"}), 64, {"did you mean --tokens?"});
  expect_refusal(run_program({"plan", "--config"}), 64, {"config"});
  expect_refusal(run_program({"plan", "--config", "a", "--config", "b"}), 64,
                 {"--config", "more than once"});
  expect_refusal(run_program({"plan", "--ranks", "0"}), 64, {"--ranks 0", "[1, "});
  expect_refusal(run_program({"plan", "--ranks", "two"}), 64, {"--ranks two"});
  expect_refusal(run_program({"eval", "--tokens", "x"}), 64, {"--checkpoint DIR: must be given"});
  expect_refusal(run_program({"eval", "--checkpoint", "x", "--tokens", "y", "--max-windows=0"}), 64,
                 {"--max-windows 0", "[1, "});
  expect_refusal(run_program({"eval", "--checkpoint", "x", "--tasks", "y", "--max-windows=1"}), 64,
                 {"--max-windows: needs --tokens"});
}

TEST_F(CommandLineTest, ConfigurationErrors) {
  const auto plan = [&](std::vector<std::string> overrides) {
    overrides.insert(overrides.begin(), {"plan", "--config", path("tiny.ini")});
    return run_program(overrides);
  };
  expect_refusal(plan({"--moe.topk=2"}), 64, {"moe.topk = 2", "did you mean moe.top_k?"});
  expect_refusal(plan({"--moe.top=2"}), 64, {"moe.top = 2", "unknown key"});
  expect_refusal(plan({"--model.layers=0"}), 64, {"model.layers = 0", "[1, 65536]"});
  expect_refusal(plan({"--train.seed=-1"}), 64, {"train.seed = -1"});
  expect_refusal(plan({"--optimizer.lr=nan"}), 64, {"optimizer.lr = nan"});
  expect_refusal(plan({"--model.layers=2", "--model.layers=2"}), 64,
                 {"model.layers (command line): given more than once"});
  expect_refusal(plan({"--moe.experts=6", "--parallel.expert=4"}), 64,
                 {"parallel.expert = 4", "a divisor of moe.experts (6)"});
  expect_refusal(plan({"--ranks", "3"}), 64, {"train.global_batch = 4", "3 ranks"});
  expect_refusal(plan({"--train.micro_batch=0", "--ranks", "5"}), 64,
                 {"train.global_batch = 4", "at least the number of ranks (5)"});
  expect_refusal(plan({"--moe.row_budget=0.5"}), 64, {"moe.row_budget = 0.5", "[1, inf)"});
  expect_refusal(plan({"--memory", "0"}), 64, {"--memory 0"});
  expect_refusal(run_program({"plan", "--config", path("absent.ini")}), 65, {"absent.ini"});
  write_bytes(path("twice.ini"), "[model]\nlayers = 1\nlayers = 2\n");
  expect_refusal(run_program({"plan", "--config", path("twice.ini")}), 64,
                 {"model.layers", "twice.ini"});
  write_bytes(path("utf16.ini"), std::string("\xFF\xFE[\0m\0", 6));
  expect_refusal(run_program({"plan", "--config", path("utf16.ini")}), 64, {"utf16.ini", "UTF-16"});
  write_bytes(path("broken.ini"), "[model]\nlayers 1\n");
  expect_refusal(run_program({"plan", "--config", path("broken.ini")}), 64,
                 {"broken.ini", "line 2", "layers 1"});

  const ProcessResult several = plan({"--moe.topk=2", "--model.heads=0", "--train.steps=x"});
  EXPECT_EQ(several.exit_code, 64);
  const std::string& text = several.standard_error;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;
  for (const char* part :
       {"3 errors", "\n  moe.topk = 2", "\n  model.heads = 0", "\n  train.steps = x"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " not in " << text;
}

TEST_F(CommandLineTest, PlanPrintsTheCounts) {
  const ProcessResult text =
      run_program({"plan", "--config", POLYMOE_CONFIGS "/moe-7b.ini", "--model.activation=swiglu"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_EQ(text.standard_error, "");
  for (const char* part : {"6,919,161,856", "1,282,017,280", "parameters", "gradients", "optimizer",
                           "activations", "buffers"})
    EXPECT_NE(text.standard_output.find(part), std::string::npos) << part;
  const ProcessResult json =
      run_program({"plan", "--config", POLYMOE_CONFIGS "/dense-1b.ini", "--json", "--ranks", "4"});
  EXPECT_NE(json.standard_output.find("\"total_parameters\": 1345423456"), std::string::npos)
      << json.standard_output;
  EXPECT_NE(json.standard_output.find("\"ranks\": 4"), std::string::npos);
}

TEST_F(CommandLineTest, PlanSetsABaselineBesideIt) {
  const ProcessResult text = run_program({"plan", "--config", POLYMOE_CONFIGS "/quickstart.ini",
                                          "--against", "--model.activation=swiglu"});
  EXPECT_EQ(text.exit_code, 0) << text.standard_error;
  for (const char* part : {"polynorm, 8 experts of 384", "swiglu, 8 experts of 256", "1.0000 of"})
    EXPECT_NE(text.standard_output.find(part), std::string::npos) << text.standard_output;
}

TEST_F(CommandLineTest, PlanCountsTheMemoryOfADeviceWhateverItPrints) {
  const std::vector<std::string> plan = {
      "plan",    "--config", POLYMOE_CONFIGS "/moe-7b.ini", "--run.device=cuda",
      "--ranks", "8",        "--parallel.expert=8",         "--memory",
      "80"};
  std::vector<std::string> with_json = plan;
  with_json.emplace_back("--json");
  const std::string json = run_program(with_json).standard_output;
  const std::string text = run_program(plan).standard_output;
  EXPECT_NE(json.find("\"device\": \"cuda\""), std::string::npos) << json;
  EXPECT_NE(text.find("routing     any: rows beyond 1.5 times"), std::string::npos) << text;
  // The total of the text is that of the JSON, which has no separators.
  const std::size_t at = text.find("total ", text.find("memory of a rank's GPU"));
  std::string total = text.substr(at + 6, text.find(" bytes", at) - at - 6);
  std::erase_if(total, [](char c) { return c == ',' || c == ' '; });
  EXPECT_NE(json.find("\"total\": " + total), std::string::npos) << total << "\n" << json;
}

TEST_F(CommandLineTest, TrainingIsRefusedBeforeItStarts) {
  expect_refusal(run_program(training({"--run.device=cuda"})), 64, {"run.device = cuda", "cpu"});
  expect_refusal(run_program(training({"--train.steps=0"})), 64, {"train.steps = 0", "at least 1"});
  expect_refusal(run_program(training({"--parallel.expert=2"})), 64,
                 {"parallel.expert = 2", "ranks (1)", "launch/mpirun/train 2"});
  expect_refusal(run_program(training(
                     {"--model.context=16000000", "--model.layers=64", "--train.micro_batch=0"})),
                 64, {"a rank needs", "model.context"});
  expect_refusal(run_program(training({"--run.dir="})), 64, {"run.dir", "a directory"});
  // Whatever it is refused for: no directory is left.
  expect_refusal(run_program(training({"--data.train=" + path("absent.bin")})), 65, {"absent.bin"});
  EXPECT_EQ(run_program(training({"--checkpoint.resume=" + path("nowhere")})).exit_code, 65);
  EXPECT_FALSE(std::filesystem::exists(path("run")));
  write_bytes(path("file"), "");
  expect_refusal(run_program(training({"--run.dir=" + path("file") + "/run"})), 74, {"/file"});
}

TEST_F(CommandLineTest, BadTokenFiles) {
  const auto train_on = [&](const std::string& name) {
    return run_program(training({"--data.train=" + path(name)}));
  };
  expect_refusal(train_on("absent.bin"), 65, {"absent.bin"});
  write_tokens("parts-train", 60);
  expect_refusal(train_on("parts"), 65, {"did you mean", "parts-train?"});
  write_tokens("ids", 100);
  expect_refusal(train_on("ids"), 65, {"ids.bin", "70", "0 to 63"});
  write_tokens("cut", 64);
  const std::string whole = read_bytes(path("cut.bin"));
  write_bytes(path("cut.bin"), whole.substr(0, whole.size() - 3));
  expect_refusal(train_on("cut"), 65, {"cut"});
  write_bytes(path("foreign.bin"), "neither Megatron nor llm.c");
  expect_refusal(train_on("foreign.bin"), 65, {"foreign.bin"});
  write_bytes(path("numpy.npy"), "\x93NUMPY and so on");
  expect_refusal(train_on("numpy.npy"), 65, {"numpy.npy"});
  write_bytes(path("short.npy"), std::string(16, '\0'));
  expect_refusal(train_on("short.npy"), 65, {"short.npy", "8 tokens"});
}

TEST_F(CommandLineTest, RanksReportOneLineAndNeverHang) {
  // What all ranks see alike is said once.
  expect_refusal(run_on_ranks(2, {"trian"}), 64, {"did you mean 'train'?"});
  expect_refusal(run_on_ranks(2, training({"--moe.topk=2"})), 64, {"rank 0", "moe.top_k"});
  expect_refusal(run_on_ranks(2, training({"--parallel.expert=4"})), 64,
                 {"rank 0", "parallel.expert = 4", "ranks (2)"});
  expect_refusal(run_on_ranks(2, training({"--data.train=" + path("absent")})), 65,
                 {"rank 0", "absent"});
  // What one rank sees alone ends all: the first one checks the tokens.
  write_tokens("ids", 100);
  expect_refusal(run_on_ranks(2, training({"--data.train=" + path("ids")})), 65,
                 {"rank 0", "ids.bin"});
  expect_refusal(run_on_ranks(2, {"plan"}), 64, {"'plan' runs in one process"});
  ASSERT_EQ(run_program(training({})).exit_code, 0);
  const std::vector<std::string> evaluation = {"eval",     "--checkpoint", path("run"),
                                               "--tokens", path("tokens"), "--max-windows",
                                               "1",        "--json"};
  std::vector<std::string> unwritable = evaluation, writable = evaluation;
  unwritable.push_back(path("absent/out.json"));
  writable.push_back(path("out.json"));
  expect_refusal(run_on_ranks(2, unwritable), 74, {"rank 0", "absent/out.json"});
  const ProcessResult evaluated = run_on_ranks(2, writable);
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.standard_error;
  EXPECT_NE(read_bytes(path("out.json")).find("perplexity"), std::string::npos);
}

TEST_F(CommandLineTest, OutputThatCannotBeWritten) {
  const ProcessResult full =
      run_process({"sh", "-c", "exec '" POLYMOE_PROGRAM "' plan --json > /dev/full"});
  expect_refusal(full, 74, {"standard output"});
}

TEST_F(CommandLineTest, WarnsOfATokenizerThatIsTooSmall) {
  write_bytes(path("a.txt"), std::string(500, 'a'));
  ASSERT_EQ(run_program(
                {"tokenize", "--tokenizer=bytes", "--input", path("a.txt"), "--output", path("a")})
                .exit_code,
            0);
  const auto warnings = [&](const char* vocab) {
    const ProcessResult result = run_program(
        training({"--data.train=" + path("a"), std::string("--model.vocab=") + vocab,
                  "--checkpoint.resume=none", "--run.dir=" + path(std::string("run") + vocab)}));
    EXPECT_EQ(result.exit_code, 0) << result.standard_error;
    return result.standard_error;
  };
  EXPECT_EQ(warnings("257").find("the tokenizer"), std::string::npos);
  std::string ids = read_bytes(path("a.bin"));
  ids.replace(0, 2, std::string("\x2c\x01", 2));  // 300
  write_bytes(path("a.bin"), ids);
  const std::string both = warnings("320");
  EXPECT_NE(both.find("model.vocab = 320: the tokenizer bytes (257 ids"), std::string::npos);
  EXPECT_NE(both.find("a.bin: holds the id 300, but the tokenizer bytes (257 ids"),
            std::string::npos);
}

}  // namespace
}  // namespace polymoe
