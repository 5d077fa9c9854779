// SPDX-License-Identifier: Apache-2.0
// The built program from outside: what a user does wrong gets one clear line and an exit code.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "runtime/files/megatron_writer.h"
#include "tests/support/process.h"

namespace polymoe {
namespace {

using test::ProcessResult;
using test::read_bytes;
using test::run_process;
using test::TemporaryDirectory;
using test::write_bytes;

class CommandLineTest : public ::testing::Test {
 protected:
  static ProcessResult run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), POLYMOE_PROGRAM);
    return run_process(arguments);
  }
  static ProcessResult run_on_ranks(int ranks, std::vector<std::string> arguments) {
    const std::vector<std::string> launcher = {POLYMOE_LAUNCHER, std::to_string(ranks),
                                               POLYMOE_PROGRAM};
    arguments.insert(arguments.begin(), launcher.begin(), launcher.end());
    return run_process(arguments);
  }

  // The program refused with that code, and said why in one line that holds every part.
  static void expect_line(const ProcessResult& result, int exit_code,
                          const std::vector<std::string>& parts) {
    EXPECT_EQ(result.exit_code, exit_code) << result.standard_error;
    const std::string& line = result.standard_error;
    EXPECT_TRUE(line.starts_with("polymoe: ")) << line;
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
    for (const std::string& part : parts)
      EXPECT_NE(line.find(part), std::string::npos) << "'" << part << "' not in: " << line;
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
  const ProcessResult help = run({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(help.standard_error, "");
  for (const char* command :
       {"train", "eval", "generate", "tokenize", "data", "plan", "bench", "checkpoint"}) {
    EXPECT_NE(help.standard_output.find("\n  " + std::string(command) + " "), std::string::npos);
    const ProcessResult its_help = run({command, "--help"});
    EXPECT_EQ(its_help.exit_code, 0);
    EXPECT_NE(its_help.standard_output.find("polymoe " + std::string(command)), std::string::npos);
    EXPECT_EQ(its_help.standard_error, "");
  }
  const ProcessResult family = run({"checkpoint", "--help"});
  for (const char* command : {"inspect", "verify", "diff", "convert", "prune"}) {
    EXPECT_NE(family.standard_output.find("\n  " + std::string(command) + " "), std::string::npos);
    const ProcessResult its_help = run({"checkpoint", command, "--help"});
    EXPECT_EQ(its_help.exit_code, 0);
    EXPECT_NE(its_help.standard_output.find("polymoe checkpoint " + std::string(command)),
              std::string::npos);
  }
  const std::string keys = run({"train", "--help"}).standard_output;
  for (const char* key : {"model.activation", "moe.top_k", "optimizer.warmup", "run.threads"})
    EXPECT_NE(keys.find(key), std::string::npos) << key;
  EXPECT_EQ(run({"help", "train"}).standard_output, keys);
  const std::string section = run({"train", "--help", "optimizer"}).standard_output;
  EXPECT_NE(section.find("optimizer.warmup"), std::string::npos) << section;
  EXPECT_EQ(section.find("model.layers"), std::string::npos) << section;
  EXPECT_EQ(run({"help", "train", "optimizer"}).standard_output, section);
  EXPECT_EQ(run({"help"}).standard_output, help.standard_output);
  expect_line(run({"train", "--help", "nothing"}), 64, {"--help nothing", "no key"});
  const ProcessResult version = run({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  for (const char* library :
       {"polymoe ", "MPI", "HDF5", "oneDNN", "Boost", "CUDA ", "vectors of this processor ", "GPU"})
    EXPECT_NE(version.standard_output.find(library), std::string::npos) << library;
}

TEST_F(CommandLineTest, UsageErrors) {
  expect_line(run({}), 64, {"no command", "--help"});
  expect_line(run({"trian"}), 64, {"'trian'", "did you mean 'train'?"});
  expect_line(run({"--verbose"}), 64, {"--verbose"});
  expect_line(run({"checkpoint"}), 64, {"'checkpoint'", "polymoe checkpoint --help"});
  expect_line(run({"checkpoint", "inspcet", "x"}), 64, {"did you mean 'checkpoint inspect'?"});
  expect_line(run({"checkpoint", "inspect"}), 64, {"checkpoint inspect needs DIR"});
  expect_line(run({"checkpoint", "inspect", "a", "b"}), 64, {"'b'"});
  expect_line(run({"checkpoint", "inspect", path("absent")}), 65, {"absent"});
  expect_line(run({"plan", "--confg", "x"}), 64, {"--confg", "did you mean --config?"});
  expect_line(run({"plan", "--conf", "x"}), 64, {"--conf: unknown option"});
  expect_line(run({"train", "--steps", "5"}), 64, {"--steps", "did you mean --train.steps=VALUE?"});
  expect_line(run({"frobnicate"}), 64, {"'frobnicate': unknown command (polymoe --help"});
  expect_line(run({"plan", "stray"}), 64,
              {"'stray': unexpected argument; did you mean --config stray?"});
  expect_line(run({"tokenize", "a.txt"}), 64, {"did you mean --input a.txt?"});
  expect_line(run({"plan", "-ranks=2"}), 64, {"'-ranks=2'", "did you mean --ranks?"});
  expect_line(run({"generate", "--max-tokens", "3"}), 64, {"did you mean --tokens?"});
  expect_line(run({"plan", "--config"}), 64, {"config"});
  expect_line(run({"plan", "--config", "a", "--config", "b"}), 64, {"--config", "more than once"});
  expect_line(run({"plan", "--ranks", "0"}), 64, {"--ranks 0", "[1, "});
  expect_line(run({"plan", "--ranks", "two"}), 64, {"--ranks two"});
  expect_line(run({"eval", "--tokens", "x"}), 64, {"--checkpoint DIR: must be given"});
  expect_line(run({"eval", "--checkpoint", "x", "--tokens", "y", "--max-windows=0"}), 64,
              {"--max-windows 0", "[1, "});
  expect_line(run({"eval", "--checkpoint", "x", "--tasks", "y", "--max-windows=1"}), 64,
              {"--max-windows: needs --tokens"});
}

TEST_F(CommandLineTest, ConfigurationErrors) {
  const auto plan = [&](std::vector<std::string> overrides) {
    overrides.insert(overrides.begin(), {"plan", "--config", path("tiny.ini")});
    return run(overrides);
  };
  expect_line(plan({"--moe.topk=2"}), 64, {"moe.topk = 2", "did you mean moe.top_k?"});
  expect_line(plan({"--moe.top=2"}), 64, {"moe.top = 2", "unknown key"});
  expect_line(plan({"--model.layers=0"}), 64, {"model.layers = 0", "[1, 65536]"});
  expect_line(plan({"--train.seed=-1"}), 64, {"train.seed = -1"});
  expect_line(plan({"--optimizer.lr=nan"}), 64, {"optimizer.lr = nan"});
  expect_line(plan({"--model.layers=2", "--model.layers=2"}), 64,
              {"model.layers (command line): given more than once"});
  expect_line(plan({"--moe.experts=6", "--parallel.expert=4"}), 64,
              {"parallel.expert = 4", "a divisor of moe.experts (6)"});
  expect_line(plan({"--ranks", "3"}), 64, {"train.global_batch = 4", "3 ranks"});
  expect_line(plan({"--train.micro_batch=0", "--ranks", "5"}), 64,
              {"train.global_batch = 4", "at least the number of ranks (5)"});
  expect_line(plan({"--moe.row_budget=0.5"}), 64, {"moe.row_budget = 0.5", "[1, inf)"});
  expect_line(plan({"--memory", "0"}), 64, {"--memory 0"});
  expect_line(run({"plan", "--config", path("absent.ini")}), 65, {"absent.ini"});
  write_bytes(path("twice.ini"), "[model]\nlayers = 1\nlayers = 2\n");
  expect_line(run({"plan", "--config", path("twice.ini")}), 64, {"model.layers", "twice.ini"});
  write_bytes(path("utf16.ini"), std::string("\xFF\xFE[\0m\0", 6));
  expect_line(run({"plan", "--config", path("utf16.ini")}), 64, {"utf16.ini", "UTF-16"});
  write_bytes(path("broken.ini"), "[model]\nlayers 1\n");
  expect_line(run({"plan", "--config", path("broken.ini")}), 64,
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
      run({"plan", "--config", POLYMOE_CONFIGS "/moe-7b.ini", "--model.activation=swiglu"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_EQ(text.standard_error, "");
  for (const char* part : {"6,919,161,856", "1,282,017,280", "parameters", "gradients", "optimizer",
                           "activations", "buffers"})
    EXPECT_NE(text.standard_output.find(part), std::string::npos) << part;
  const ProcessResult json =
      run({"plan", "--config", POLYMOE_CONFIGS "/dense-1b.ini", "--json", "--ranks", "4"});
  EXPECT_NE(json.standard_output.find("\"total_parameters\": 1345423456"), std::string::npos)
      << json.standard_output;
  EXPECT_NE(json.standard_output.find("\"ranks\": 4"), std::string::npos);
}

TEST_F(CommandLineTest, PlanSetsABaselineBesideIt) {
  const ProcessResult text = run({"plan", "--config", POLYMOE_CONFIGS "/quickstart.ini",
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
  const std::string json = run(with_json).standard_output;
  const std::string text = run(plan).standard_output;
  EXPECT_NE(json.find("\"device\": \"cuda\""), std::string::npos) << json;
  EXPECT_NE(text.find("routing     any: rows beyond 1.5 times"), std::string::npos) << text;
  // The total of the text is that of the JSON, which has no separators.
  const std::size_t at = text.find("total ", text.find("memory of a rank's GPU"));
  std::string total = text.substr(at + 6, text.find(" bytes", at) - at - 6);
  std::erase_if(total, [](char c) { return c == ',' || c == ' '; });
  EXPECT_NE(json.find("\"total\": " + total), std::string::npos) << total << "\n" << json;
}

TEST_F(CommandLineTest, TrainingIsRefusedBeforeItStarts) {
  expect_line(run(training({"--run.device=cuda"})), 64, {"run.device = cuda", "cpu"});
  expect_line(run(training({"--train.steps=0"})), 64, {"train.steps = 0", "at least 1"});
  expect_line(run(training({"--parallel.expert=2"})), 64,
              {"parallel.expert = 2", "ranks (1)", "launch/mpirun/train 2"});
  expect_line(
      run(training({"--model.context=16000000", "--model.layers=64", "--train.micro_batch=0"})), 64,
      {"a rank needs", "model.context"});
  expect_line(run(training({"--run.dir="})), 64, {"run.dir", "a directory"});
  // Whatever it is refused for: no directory is left.
  expect_line(run(training({"--data.train=" + path("absent.bin")})), 65, {"absent.bin"});
  EXPECT_EQ(run(training({"--checkpoint.resume=" + path("nowhere")})).exit_code, 65);
  EXPECT_FALSE(std::filesystem::exists(path("run")));
  write_bytes(path("file"), "");
  expect_line(run(training({"--run.dir=" + path("file") + "/run"})), 74, {"/file"});
}

TEST_F(CommandLineTest, BadTokenFiles) {
  const auto train_on = [&](const std::string& name) {
    return run(training({"--data.train=" + path(name)}));
  };
  expect_line(train_on("absent.bin"), 65, {"absent.bin"});
  write_tokens("parts-train", 60);
  expect_line(train_on("parts"), 65, {"did you mean", "parts-train?"});
  write_tokens("ids", 100);
  expect_line(train_on("ids"), 65, {"ids.bin", "70", "0 to 63"});
  write_tokens("cut", 64);
  const std::string whole = read_bytes(path("cut.bin"));
  write_bytes(path("cut.bin"), whole.substr(0, whole.size() - 3));
  expect_line(train_on("cut"), 65, {"cut"});
  write_bytes(path("foreign.bin"), "neither Megatron nor llm.c");
  expect_line(train_on("foreign.bin"), 65, {"foreign.bin"});
  write_bytes(path("numpy.npy"), "\x93NUMPY and so on");
  expect_line(train_on("numpy.npy"), 65, {"numpy.npy"});
  write_bytes(path("short.npy"), std::string(16, '\0'));
  expect_line(train_on("short.npy"), 65, {"short.npy", "8 tokens"});
}

TEST_F(CommandLineTest, RanksReportOneLineAndNeverHang) {
  // What all ranks see alike is said once.
  expect_line(run_on_ranks(2, {"trian"}), 64, {"did you mean 'train'?"});
  expect_line(run_on_ranks(2, training({"--moe.topk=2"})), 64, {"rank 0", "moe.top_k"});
  expect_line(run_on_ranks(2, training({"--parallel.expert=4"})), 64,
              {"rank 0", "parallel.expert = 4", "ranks (2)"});
  expect_line(run_on_ranks(2, training({"--data.train=" + path("absent")})), 65,
              {"rank 0", "absent"});
  // What one rank sees alone ends all: the first one checks the tokens.
  write_tokens("ids", 100);
  expect_line(run_on_ranks(2, training({"--data.train=" + path("ids")})), 65,
              {"rank 0", "ids.bin"});
  expect_line(run_on_ranks(2, {"plan"}), 64, {"'plan' runs in one process"});
  ASSERT_EQ(run(training({})).exit_code, 0);
  const std::vector<std::string> evaluation = {"eval",     "--checkpoint", path("run"),
                                               "--tokens", path("tokens"), "--max-windows",
                                               "1",        "--json"};
  std::vector<std::string> unwritable = evaluation, writable = evaluation;
  unwritable.push_back(path("absent/out.json"));
  writable.push_back(path("out.json"));
  expect_line(run_on_ranks(2, unwritable), 74, {"rank 0", "absent/out.json"});
  const ProcessResult evaluated = run_on_ranks(2, writable);
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.standard_error;
  EXPECT_NE(read_bytes(path("out.json")).find("perplexity"), std::string::npos);
}

TEST_F(CommandLineTest, OutputThatCannotBeWritten) {
  const ProcessResult full =
      run_process({"sh", "-c", "exec '" POLYMOE_PROGRAM "' plan --json > /dev/full"});
  expect_line(full, 74, {"standard output"});
}

TEST_F(CommandLineTest, TokenizeWritesAndRefuses) {
  write_bytes(path("a.txt"), "abc\n");
  write_bytes(path("b.txt"), "de");
  const auto tokenize = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"tokenize", "--output", path("out/t")});
    return run(arguments);
  };
  const std::string a = path("a.txt"), b = path("b.txt");
  const ProcessResult done = tokenize({"--tokenizer", "bytes", "--input", a, b});
  EXPECT_EQ(done.exit_code, 0) << done.standard_error;
  EXPECT_EQ(done.standard_error, "");
  EXPECT_NE(done.standard_output.find("2 documents, 8 tokens"), std::string::npos)
      << done.standard_output;
  const std::vector<std::uint16_t> expected = {'a', 'b', 'c', '\n', 256, 'd', 'e', 256};
  EXPECT_EQ(read_bytes(path("out/t.bin")),
            std::string(reinterpret_cast<const char*>(expected.data()), 2 * expected.size()));
  // What is there is not overwritten without a word.
  expect_line(tokenize({"--tokenizer=bytes", "--input", a}), 64, {"t.tokenizer exists", "--force"});
  const auto anew = [&](std::vector<std::string> arguments) {
    arguments.emplace_back("--force");
    return tokenize(arguments);
  };
  EXPECT_EQ(anew({"--tokenizer=bytes", "--held-out=0.5", "--input", a, b}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(path("out/t-train.idx")));
  EXPECT_TRUE(std::filesystem::exists(path("out/t-valid.idx")));

  expect_line(tokenize({"--input", a}), 64, {"--tokenizer", "--train-vocabulary"});
  expect_line(anew({"--tokenizer=bytes", "--input", path("absent")}), 65, {"absent"});
  expect_line(anew({"--tokenizer", a, "--input", a}), 65, {"a.txt", "sentencepiece"});
  // Of a single document the end is held out, if it has one.
  EXPECT_NE(anew({"--tokenizer=bytes", "--held-out=0.5", "--input", a})
                .standard_output.find("its last 2 bytes are held out"),
            std::string::npos);
  EXPECT_EQ(read_bytes(path("out/t-train.bin")), std::string("a\0b\0\0\1", 6));
  EXPECT_EQ(read_bytes(path("out/t-valid.bin")), std::string("c\0\n\0\0\1", 6));
  write_bytes(path("letter.txt"), "x");
  expect_line(anew({"--tokenizer=bytes", "--held-out=0.5", "--input", path("letter.txt")}), 64,
              {"--held-out", "too short"});
  expect_line(tokenize({"--tokenizer=bytes", "--held-out=1.5", "--input", a}), 64,
              {"--held-out 1.5", "(0, 1)"});
  expect_line(anew({"--train-vocabulary=300", "--input", a}), 64, {"--train-vocabulary 300"});
  expect_line(tokenize({"--train-vocabulary=1.5", "--input", a}), 64, {"--train-vocabulary 1.5"});
  expect_line(run({"tokenize", "--tokenizer=bytes", "--input", a, "--output", a + "/t"}), 74,
              {"a.txt"});
}

TEST_F(CommandLineTest, WarnsOfATokenizerThatIsTooSmall) {
  write_bytes(path("a.txt"), std::string(500, 'a'));
  ASSERT_EQ(run({"tokenize", "--tokenizer=bytes", "--input", path("a.txt"), "--output", path("a")})
                .exit_code,
            0);
  const auto warnings = [&](const char* vocab) {
    const ProcessResult result = run(
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

TEST_F(CommandLineTest, TokenizesLinesOfJsonAndConversations) {
  write_bytes(path("a.jsonl"), "{\"id\": 1, \"text\": \"ab\"}\n{\"text\": \"c\"}\n");
  write_bytes(path("chat.jsonl"), "{\"prompt\": \"ab\", \"completion\": \"c\"}\n");
  const auto tokenize = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(),
                     {"tokenize", "--tokenizer=bytes", "--force", "--output", path("out/t")});
    return run(arguments);
  };
  const ProcessResult done = tokenize({"--input", path("a.jsonl")});
  EXPECT_EQ(done.exit_code, 0) << done.standard_error;
  EXPECT_NE(done.standard_output.find("2 documents, 5 tokens of 3 bytes"), std::string::npos)
      << done.standard_output;
  EXPECT_FALSE(std::filesystem::exists(path("out/t.mask.bin")));
  ASSERT_EQ(tokenize({"--chat=chatml", "--input", path("chat.jsonl")}).exit_code, 0);
  EXPECT_EQ(read_bytes(path("out/t.mask.bin")), std::string("\0\0\1\1", 4));

  expect_line(tokenize({"--chat=chatml", "--input", path("a.jsonl")}), 65, {"a.jsonl line 1"});
  expect_line(tokenize({"--chat=robot", "--input", path("a.jsonl")}), 64, {"--chat robot"});
  expect_line(tokenize({"--chat=auto", "--input", path("a.jsonl")}), 64, {"--chat auto"});
  expect_line(tokenize({"--field=body", "--input", path("a.jsonl")}), 65,
              {"body", "fields with text: text"});
  write_bytes(path("latin.txt"), "caf\xE9 au lait");
  expect_line(tokenize({"--input", path("latin.txt")}), 65, {"latin.txt byte 3:", "Latin-1"});
  const ProcessResult replaced = tokenize({"--invalid=replace", "--input", path("latin.txt")});
  EXPECT_EQ(replaced.exit_code, 0);
  EXPECT_NE(replaced.standard_output.find("1 places"), std::string::npos);
  expect_line(tokenize({"--held-out=0.1", "--input", "-"}), 64, {"standard input"});
  write_bytes(path("empty.txt"), "");
  expect_line(tokenize({"--input", path("empty.txt")}), 65, {"empty.txt", "no text"});
}

TEST_F(CommandLineTest, ChecksAndShowsTokenFiles) {
  write_bytes(path("a.txt"), "one two");
  ASSERT_EQ(run({"tokenize", "--tokenizer=bytes", "--input", path("a.txt"), "--output", path("a")})
                .exit_code,
            0);
  write_tokens("ids", 100);
  const ProcessResult checked = run({"data", "check", path("a.bin"), path("ids")});
  EXPECT_EQ(checked.exit_code, 0) << checked.standard_error;
  EXPECT_NE(checked.standard_output.find("8 tokens, 1 document, ids below 257: fine"),
            std::string::npos)
      << checked.standard_output;
  expect_line(run({"data", "check", path("ids"), "--vocab=64"}), 65, {"ids.bin", "70", "0 to 63"});
  const ProcessResult shown = run({"data", "show", path("a.bin"), "--window=1", "--context=3"});
  EXPECT_EQ(shown.standard_output, "tokens 3 to 6 of " + path("a.bin") + "\n two\n");
  expect_line(run({"data", "show", path("a.bin"), "--window=9"}), 64, {"--window 9", "1 windows"});
  expect_line(run({"data", "show", path("ids")}), 64, {"--tokenizer"});
  const ProcessResult counted = run({"data", "statistics", path("a.bin")});
  EXPECT_NE(counted.standard_output.find("7 different ones, the largest 256"), std::string::npos)
      << counted.standard_output;
  expect_line(run({"data"}), 64, {"data"});
}

}  // namespace
}  // namespace polymoe
