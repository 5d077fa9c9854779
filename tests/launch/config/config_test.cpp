// SPDX-License-Identifier: Apache-2.0
#include "launch/config/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "launch/commands/command_line.h"
#include "launch/config/option_table.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::message_of;

Config parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_config(text, "file.ini", overrides);
}

std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return message_of<InvalidArgument>([&] { parse(text, overrides); });
}

// A text that every key takes and that is not its default.
const std::vector<std::pair<std::string, std::string>> other_values = {
    {"model.layers", "6"},
    {"model.hidden", "512"},
    {"model.heads", "8"},
    {"model.kv_heads", "2"},
    {"model.ffn", "1000"},
    {"model.vocab", "4096"},
    {"model.context", "128"},
    {"model.activation", "polyprelu"},
    {"model.order", "4"},
    {"model.qk_norm", "true"},
    {"model.tied", "true"},
    {"model.norm_epsilon", "1e-06"},
    {"model.rope_theta", "5e+05"},
    {"model.init_std", "0.013975"},
    {"model.init_truncation", "2.5"},
    {"moe.experts", "16"},
    {"moe.top_k", "4"},
    {"moe.expert_ffn", "768"},
    {"moe.shared_experts", "1"},
    {"moe.dense_layers", "0 2"},
    {"moe.scores", "sigmoid"},
    {"moe.normalize", "true"},
    {"moe.coefficients", "expert"},
    {"moe.balance_loss", "0.02"},
    {"moe.balance_scope", "global"},
    {"moe.z_loss", "0.002"},
    {"moe.bias_rate", "0.003"},
    {"moe.capacity_factor", "1.25"},
    {"moe.drop", "probability"},
    {"moe.row_budget", "2"},
    {"moe.report_every", "50"},
    {"data.train", "a.bin:0.25 b.npy c:d:1"},
    {"data.valid", "v"},
    {"data.weights", "size"},
    {"data.stages", "1000 b.npy:0.5 a.bin; 2000 c:d:1"},
    {"data.stage_change", "linear"},
    {"data.max_epochs", "b.npy:1.5"},
    {"data.documents", "mask"},
    {"data.packing", "documents"},
    {"data.end_of_text", "3"},
    {"data.token_bytes", "4"},
    {"data.changed", "accept"},
    {"train.steps", "1000"},
    {"train.stop_after", "10"},
    {"train.global_batch", "32"},
    {"train.micro_batch", "4"},
    {"train.seed", "9007199254740993"},
    {"train.valid_every", "50"},
    {"train.valid_batches", "4"},
    {"train.recompute", "block"},
    {"train.precision", "bf16"},
    {"train.max_skipped", "3"},
    {"train.spike", "clip"},
    {"train.spike_z", "4.5"},
    {"train.spike_window", "50"},
    {"train.check_replicas", "200"},
    {"eval.tasks", "a.jsonl b.jsonl.gz"},
    {"eval.every", "200"},
    {"eval.tokenizer", "bytes"},
    {"optimizer.lr", "0.001"},
    {"optimizer.min_lr", "1e-05"},
    {"optimizer.warmup", "2M tokens"},
    {"optimizer.decay", "10%"},
    {"optimizer.schedule", "wsd"},
    {"optimizer.beta1", "0.8"},
    {"optimizer.beta2", "0.999"},
    {"optimizer.epsilon", "1e-10"},
    {"optimizer.weight_decay", "0.05"},
    {"optimizer.moment_dtype", "bf16"},
    {"optimizer.gradient_dtype", "bf16"},
    {"optimizer.clip", "0.5"},
    {"parallel.expert", "4"},
    {"parallel.expert_node", "2"},
    {"checkpoint.every", "100"},
    {"checkpoint.every_seconds", "900"},
    {"checkpoint.keep", "5"},
    {"checkpoint.resume", "runs/a/checkpoints/step-00000010"},
    {"checkpoint.background", "false"},
    {"checkpoint.on_error", "continue"},
    {"run.dir", "runs/x"},
    {"run.device", "cpu"},
    {"run.share_gpus", "true"},
    {"run.timeout", "30"},
    {"run.alarm", "mail -s stuck ops"},
    {"run.threads", "3"},
    {"run.report_ranks", "10"},
    {"run.trace", "20-22"}};

std::vector<std::string> as_overrides() {
  std::vector<std::string> overrides;
  for (const auto& [key, value] : other_values) overrides.push_back("--" + key + "=" + value);
  return overrides;
}

TEST(ConfigTest, EveryKeyIsReadPrintedAndReadBack) {
  ASSERT_EQ(other_values.size(), options().size());
  const Config defaults, changed = parse("", as_overrides());
  for (const auto& [key, value] : other_values) {
    const Option* option = find_option(key);
    ASSERT_NE(option, nullptr) << key;
    EXPECT_EQ(option->print(changed), value) << key;
    EXPECT_NE(option->print(changed), option->print(defaults)) << key;
    EXPECT_FALSE(option->help.empty());
    EXPECT_FALSE(option->allowed.empty());
  }
  const std::string text = to_ini(changed);
  EXPECT_EQ(to_ini(parse(text)), text);
  EXPECT_EQ(to_ini(parse(to_ini(parse("")))), to_ini(parse("")));
}

TEST(ConfigTest, KeysReachTheirFields) {
  const Config config = parse("", as_overrides());
  EXPECT_EQ(config.model.activation.kind, ActivationKind::polyprelu);
  EXPECT_EQ(config.model.moe.dense_layers, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(config.model.moe.router.scores, RouterScores::sigmoid);
  EXPECT_TRUE(config.model.moe.coefficients_per_expert);
  EXPECT_EQ(config.model.moe.drop, DropPolicy::probability);
  EXPECT_EQ(parse("", {"--train.recompute=activation"}).train.recompute, Recompute::activation);
  EXPECT_EQ(config.train.seed, 9007199254740993U);
  EXPECT_EQ(config.train.recompute, Recompute::block);
  EXPECT_EQ(config.optimizer.adamw.beta2, 0.999);
  ASSERT_EQ(config.data.train.size(), 3U);
  EXPECT_EQ(config.data.train[0].path, "a.bin");
  EXPECT_EQ(config.data.train[0].weight, 0.25);
  EXPECT_FALSE(config.data.train[1].weight.has_value());
  ASSERT_EQ(config.data.stages.size(), 2U);
  EXPECT_EQ(config.data.stages[1].tokens, 2000);
  EXPECT_EQ(config.data.stages[0].files[0].weight, 0.5);
  EXPECT_EQ(config.data.max_epochs[0].path, "b.npy");
  EXPECT_EQ(config.data.train[2].path, "c:d");
}

TEST(ConfigTest, CommandLineWinsOverFileWinsOverDefaults) {
  const std::string text = "[model]\nlayers = 3  # a comment\n\n[train]\nsteps = 1e3\n";
  EXPECT_EQ(parse(text).model.layers, 3);
  EXPECT_EQ(parse(text).train.steps, 1000);
  EXPECT_EQ(parse(text).model.hidden, 256);
  EXPECT_EQ(parse(text, {"--model.layers=5"}).model.layers, 5);
  EXPECT_EQ(parse("[data]\nvalid = v.bin\n", {"--data.valid="}).data.valid.size(), 0U);
}

TEST(ConfigTest, AutomaticWidthsAreResolvedUnlessGiven) {
  EXPECT_EQ(parse("[model]\nhidden = 2048\nheads = 16\nactivation = swiglu").model.ffn, 5504);
  EXPECT_EQ(parse("[model]\nhidden = 2048\nheads = 16\nactivation = polynorm").model.ffn, 8256);
  EXPECT_EQ(parse("[model]\nhidden = 2048\nheads = 16\nffn = 100").model.ffn, 100);
  const std::string moe = "[model]\nhidden = 2048\nheads = 16\n[moe]\nexperts = 8\n";
  EXPECT_EQ(parse(moe, {"--model.activation=swiglu"}).model.moe.expert_ffn, 1024);
  EXPECT_EQ(parse(moe, {"--model.activation=relu"}).model.moe.expert_ffn, 1536);
  EXPECT_EQ(parse(moe).model.kv_heads, 16);
}

TEST(ConfigTest, UnknownKeysNameTheNearest) {
  EXPECT_EQ(refusal("[moe]\ntopk = 2\n"),
            "configuration: moe.topk = 2 (file.ini): unknown key; did you mean moe.top_k?");
  EXPECT_NE(refusal("", {"--model.top_k=2"}).find("did you mean moe.top_k?"), std::string::npos);
  EXPECT_NE(refusal("layers = 2").find("did you mean model.layers?"), std::string::npos);
  // No abbreviations.
  EXPECT_NE(refusal("", {"--model.layer=2"}).find("unknown key"), std::string::npos);
  EXPECT_NE(refusal("[model]\nlayer = 2").find("unknown key"), std::string::npos);
  // A key of earlier versions, which every checkpoint of theirs has.
  EXPECT_NO_THROW(parse_config("[run]\ndeterministic = true", "file.ini", {}));
  EXPECT_NE(refusal("", {"--run.deterministic=false"}).find("every run gives the same bits again"),
            std::string::npos);
}

TEST(ConfigTest, DuplicatesAreErrors) {
  EXPECT_EQ(refusal("[model]\nlayers = 2\nlayers = 2\nlayers = 2\n"),
            "configuration: model.layers (file.ini): given more than once");
  EXPECT_EQ(refusal("", {"--model.layers=2", "--model.layers=2"}),
            "configuration: model.layers (command line): given more than once");
  EXPECT_NE(refusal("[model]\nlayers = 2\n[train]\nsteps = 1\n[model]\nlayers = 3\n"), "");
}

TEST(ConfigTest, ValuesOutOfRangeNameKeyValueAndRange) {
  EXPECT_EQ(refusal("[model]\nlayers = 0\n"),
            "configuration: model.layers = 0 (file.ini): must be a whole number in [1, 65536]");
  EXPECT_EQ(refusal("", {"--optimizer.beta1=1"}),
            "configuration: optimizer.beta1 = 1 (command line): must be a number in [0, 1)");
  EXPECT_EQ(refusal("[moe]\nbalance_scope = node\n"),
            "configuration: moe.balance_scope = node (file.ini): must be one of sequence, rank, "
            "global");
  const std::vector<std::string> bad = {
      "train.seed=-1",          "train.seed=1.5",       "optimizer.lr=nan",
      "optimizer.lr=inf",       "optimizer.lr=-1",      "optimizer.lr=1x",
      "model.qk_norm=yes",      "model.qk_norm=",       "model.layers=",
      "model.layers=two",       "train.steps=1e30",     "model.activation=polynom",
      "model.order=5",          "data.token_bytes=3",   "data.train=a:0",
      "data.train=a:-1",        "data.train=:2",        "data.train=a#b",
      "optimizer.warmup=x",     "checkpoint.resume=",   "run.device=tpu",
      "run.threads=-1",         "moe.dense_layers=1 x", "moe.dense_layers=-1",
      "parallel.expert=0",      "model.norm_epsilon=0", "optimizer.schedule=cos",
      "moe.coefficients=model", "train.recompute=all",  "run.dir=a#b"};
  for (const std::string& assignment : bad) {
    const std::string key = assignment.substr(0, assignment.find('='));
    const std::string message = refusal("", {"--" + assignment});
    EXPECT_TRUE(message.starts_with("configuration: " + key + " = ")) << assignment << message;
    EXPECT_NE(message.find("must be"), std::string::npos) << assignment << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(ConfigTest, AllViolationsAreListedAtOnce) {
  const std::string message =
      refusal("[model]\nlayer = 2\nheads = 0\n[moe]\nexperts = 6\ntop_k = 7\n[train]\nsteps = x\n",
              {"--parallel.expert=4", "--optimizer.min_lr=1", "--train.micro_batch=3"});
  const std::vector<std::string> wanted = {"configuration: 7 errors",
                                           "model.layer = 2 (file.ini): unknown key",
                                           "model.heads = 0 (file.ini): must be",
                                           "train.steps = x (file.ini): must be",
                                           "moe.top_k = 7: must be in [1, 6]",
                                           "parallel.expert = 4: must be a divisor of moe.experts",
                                           "train.global_batch = 8: must be a multiple",
                                           "optimizer.min_lr = 1: must be at most optimizer.lr"};
  for (const std::string& line : wanted)
    EXPECT_NE(message.find(line), std::string::npos) << line << "\nnot in:\n" << message;
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 7) << message;
}

TEST(ConfigTest, KeysThatMustFitTogether) {
  EXPECT_NE(refusal("[train]\nprecision = f32\n[optimizer]\ngradient_dtype = bf16\n")
                .find("optimizer.gradient_dtype = bf16: must be f32 with train.precision = f32"),
            std::string::npos);
  EXPECT_NE(refusal("[model]\nhidden = 100\nheads = 3\n").find("model.heads = 3"),
            std::string::npos);
  EXPECT_NE(refusal("[train]\nsteps = 10\n[optimizer]\nschedule = wsd\ndecay = 11\n")
                .find("optimizer.decay"),
            std::string::npos);
  EXPECT_NE(refusal("", {"--moe.experts=4", "--moe.top_k=5"}).find("moe.top_k = 5"),
            std::string::npos);
}

TEST(ConfigTest, StagesAndCapsAreOfTheFilesAndInOrder) {
  const auto refused = [](const std::string& argument) {
    return test::message_of<InvalidArgument>([&] {
      parse("", {"--data.train=a.bin b.bin", argument});
    });
  };
  for (const char* stages : {"a.bin", "0 a.bin", "5", "9 a.bin; 5 b.bin", "5 a.bin:-1"})
    EXPECT_NE(refused(std::string("--data.stages=") + stages).find("data.stages"),
              std::string::npos)
        << stages;
  EXPECT_NE(refused("--data.max_epochs=a.bin").find("PATH:EPOCHS"), std::string::npos);
  EXPECT_NE(refused("--data.max_epochs=c.bin:2").find("c.bin"), std::string::npos);
  EXPECT_NO_THROW(parse("", {"--data.train=a.bin", "--data.stages=1M b.bin:0.5 a.bin:0.5",
                             "--data.max_epochs=b.bin:2"}));
}

TEST(ConfigTest, GatedWidthsGiveEveryActivationAsManyParameters) {
  const auto width = [](const char* given, const char* activation) {
    return parse("", {"--moe.experts=4", "--moe.expert_ffn=" + std::string(given),
                      "--model.activation=" + std::string(activation)})
        .model.moe.expert_ffn;
  };
  EXPECT_EQ(width("256 gated", "swiglu"), 256);
  EXPECT_EQ(width("256gated", "polynorm"), 384);
  EXPECT_EQ(width("256", "polynorm"), 256);
  EXPECT_NE(refusal("", {"--model.ffn=255 gated"}).find("or an even one and `gated`"),
            std::string::npos);
  EXPECT_NE(refusal("", {"--model.ffn=gated"}).find("model.ffn = gated"), std::string::npos);
  // What was read is a number from then on.
  const Config config = parse("[model]\nffn = 64 gated\n");
  EXPECT_NE(to_ini(config).find("\nffn = 96\n"), std::string::npos);
}

TEST(ConfigTest, AFileMayBeginWithAByteOrderMarkAndBadLinesAreNumbered) {
  EXPECT_EQ(parse("\xEF\xBB\xBF[model]\nlayers = 3 # three\n\n").model.layers, 3);
  const std::string message = refusal("[model]\nlayers = 2\nheads 4\n = 5\n");
  EXPECT_NE(message.find("file.ini: 2 errors\n  line 3: 'heads 4'"), std::string::npos) << message;
  EXPECT_NE(message.find("line 4: '= 5'"), std::string::npos) << message;
  const std::string absent =
      test::message_of<InputFileError>([] { read_config("/no/such/file.ini", {}); });
  EXPECT_NE(absent.find("No such file"), std::string::npos) << absent;
}

TEST(ConfigTest, UnreadableFilesAndLines) {
  EXPECT_NE(refusal("[model]\nlayers\n").find("file.ini: "), std::string::npos);
  EXPECT_THROW(read_config("/no/such/file.ini", {}), InputFileError);
  const test::TemporaryDirectory directory;
  EXPECT_THROW(read_config(directory.path().string(), {}), InputFileError);
  test::write_bytes(directory.path() / "c.ini", "[model]\nlayers = 9\n");
  EXPECT_EQ(read_config((directory.path() / "c.ini").string(), {}).model.layers, 9);
  EXPECT_EQ(read_config("", {"--model.layers=7"}).model.layers, 7);
  EXPECT_THROW(read_config("", {"model.layers=7"}), InvalidArgument);
}

TEST(ConfigTest, LayoutAndTrainingChecks) {
  Config config = parse("", {"--moe.experts=8", "--parallel.expert=4"});
  EXPECT_EQ(layout_violations(config, 4).size(), 0U);
  EXPECT_EQ(layout_violations(config, 2).size(), 1U);
  ASSERT_EQ(layout_violations(config, 3).size(), 1U);
  EXPECT_NE(layout_violations(config, 3).front().find(
                "(3): --parallel.expert=1, or 4 ranks by launch/mpirun/train 4 or mpirun -n 4"),
            std::string::npos)
      << layout_violations(config, 3).front();
  const Config given = parse("", {"--train.micro_batch=8"});
  ASSERT_EQ(layout_violations(given, 3).size(), 1U);
  EXPECT_NE(layout_violations(given, 3).front().find("without train.micro_batch any number from 3"),
            std::string::npos);
  EXPECT_NE(layout_violations(config, 2).front().find("divisor of the number of ranks (2)"),
            std::string::npos);
  EXPECT_EQ(training_violations(config, 4).size(), 3U);
  config = parse("", {"--train.steps=1", "--data.train=a", "--run.dir=b"});
  EXPECT_TRUE(training_violations(config, 8).empty());
  EXPECT_EQ(training_violations(config, 16).size(), 1U);
}

TEST(ConfigTest, ModelDifferencesNameTheFields) {
  const Config here = parse("", {"--moe.experts=8"});
  EXPECT_TRUE(model_differences(here, here).empty());
  EXPECT_TRUE(model_differences(here, parse("", {"--moe.experts=8", "--train.seed=3",
                                                 "--moe.balance_loss=0.5", "--model.ffn=7"}))
                  .empty());
  const auto lines = model_differences(here, parse("", {"--moe.experts=4", "--model.layers=2"}));
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0], "model.layers: 4 here, 2 there");
  EXPECT_EQ(lines[1], "moe.experts: 8 here, 4 there");
  EXPECT_EQ(model_differences(here, parse("", {"--moe.experts=8", "--moe.bias_rate=0.1"})).size(),
            1U);
  EXPECT_TRUE(model_differences(parse("", {"--moe.experts=8", "--moe.bias_rate=0.2"}),
                                parse("", {"--moe.experts=8", "--moe.bias_rate=0.1"}))
                  .empty());
}

TEST(CommandLineTest, TakesItsOptionsAndTheConfigurationsKeys) {
  const std::vector<CommandOption> known = {
      {"config", "FILE", "", true}, {"input", "FILE...", ""}, {"json", "", ""}};
  const CommandLine line(
      known,
      {"--config", "a.ini", "--model.layers=2", "--input", "x", "y", "--json", "--moe.top_k", "3"},
      0, true);
  EXPECT_EQ(line.value("config"), "a.ini");
  EXPECT_EQ(line.values("input"), (std::vector<std::string>{"x", "y"}));
  EXPECT_TRUE(line.has("json"));
  EXPECT_EQ(line.overrides(), (std::vector<std::string>{"--model.layers=2", "--moe.top_k=3"}));
  EXPECT_EQ(CommandLine(known, {"--config=b"}).value("config"), "b");
  EXPECT_EQ(CommandLine(known, {"--config=b"}).value("input", "none"), "none");
  EXPECT_EQ(CommandLine(known, {"dir", "--config=b"}, 1).positional().front(), "dir");
}

TEST(CommandLineTest, RefusesWithANearestOption) {
  const std::vector<CommandOption> known = {{"config", "FILE", "", true}, {"json", "", ""}};
  const auto refused = [&](const std::vector<std::string>& args) {
    return message_of<InvalidArgument>([&] { CommandLine(known, args); });
  };
  EXPECT_EQ(refused({"--confg=x"}), "arguments: --confg: unknown option; did you mean --config?");
  EXPECT_NE(refused({"--conf=x"}).find("unknown option"), std::string::npos);
  EXPECT_NE(refused({"--config=x", "--config=y"}).find("more than once"), std::string::npos);
  EXPECT_NE(refused({"--config=x", "stray"}).find("'stray': unexpected"), std::string::npos);
  EXPECT_NE(refused({}).find("--config FILE: must be given"), std::string::npos);
  EXPECT_NE(refused({"--config"}), "");
  EXPECT_NE(refused({"--config=x", "--json=1"}), "");
  EXPECT_NE(refused({"--config=x", "--model.layers=2"}), "");
  EXPECT_NE(message_of<InvalidArgument>([&] {
              CommandLine(known, {"--config=x", "--model.layers"}, 0, true);
            }).find("needs a value"),
            std::string::npos);
}

}  // namespace
}  // namespace polymoe
