// SPDX-License-Identifier: Apache-2.0
// `polymoe checkpoint ...` from outside, on a checkpoint whose content another program has
// described.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/files/json.h"
#include "tests/support/process.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;
using test::ProcessResult;
using test::read_bytes;
using test::run_process;
using test::write_bytes;

class CheckpointCommands : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(path("run/checkpoints"));
    fs::copy(fs::path(POLYMOE_FIXTURES) / "checkpoint-v2", checkpoint());
  }

  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }
  std::string checkpoint() const { return path("run/checkpoints/step-00000002"); }
  static ProcessResult run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {POLYMOE_PROGRAM, "checkpoint"});
    return run_process(arguments);
  }
  static ProcessResult succeed(const std::vector<std::string>& arguments) {
    ProcessResult result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.standard_error;
    EXPECT_EQ(result.standard_error, "");
    return result;
  }
  static void expect_refusal(const ProcessResult& result, int exit_code, const std::string& part) {
    EXPECT_EQ(result.exit_code, exit_code) << result.standard_error;
    EXPECT_TRUE(result.standard_error.starts_with("polymoe: ")) << result.standard_error;
    EXPECT_EQ(std::count(result.standard_error.begin(), result.standard_error.end(), '\n'), 1);
    EXPECT_NE(result.standard_error.find(part), std::string::npos) << result.standard_error;
  }
  /// A checkpoint of one-dimensional tensors; returns its path.
  std::string write(const std::string& root, const CheckpointInfo& info,
                    const std::map<std::string, std::vector<float>>& tensors) const {
    write_checkpoint(
        path(root), info,
        [&](int) {
          std::vector<TensorPiece> pieces;
          for (const auto& [name, values] : tensors) {
            const Shape shape = {static_cast<std::int64_t>(values.size())};
            pieces.push_back({name, shape, 0, Tensor(nullptr, shape, DType::f32, Device::meta())});
          }
          return pieces;
        },
        [&](const TensorPiece& piece) {
          const std::vector<float>& values = tensors.at(piece.name);
          std::copy(values.begin(), values.end(), piece.data.data<float>());
        });
    return path(root + "/" + checkpoint_name(info.step));
  }
  static std::string differ(const std::string& a, const std::string& b) {
    const ProcessResult result = run({"diff", a, b});
    EXPECT_EQ(result.exit_code, 1) << result.standard_error;
    EXPECT_EQ(result.standard_error, "");
    return result.standard_output;
  }
  static void flip(const fs::path& file, std::size_t byte) {
    std::string bytes = read_bytes(file);
    bytes[byte] = static_cast<char>(bytes[byte] ^ (1 << (byte % 8)));
    write_bytes(file, bytes);
  }

  test::TemporaryDirectory directory_;
};

TEST_F(CheckpointCommands, InspectSaysWhatTheCheckpointHolds) {
  const Json expected =
      parse_json(read_bytes(fs::path(POLYMOE_FIXTURES) / "checkpoint-v2.json"), "expected");
  const Json found =
      parse_json(succeed({"inspect", checkpoint(), "--json"}).standard_output, "out");
  EXPECT_EQ(found.at("version").as_integer(), 2);
  EXPECT_EQ(found.at("step").as_integer(), 2);
  EXPECT_EQ(found.at("layout").at("ranks").as_integer(), 2);
  EXPECT_EQ(found.at("layout").at("expert_parallel").as_integer(), 2);
  EXPECT_EQ(found.at("config").at("moe.experts").as_string(), "2");
  EXPECT_EQ(found.at("files").items().size(), 3u);
  const auto& tensors = expected.at("tensors").members();
  ASSERT_EQ(found.at("tensors").items().size(), tensors.size());
  for (const Json& tensor : found.at("tensors").items()) {
    const Json& known = expected.at("tensors").at(tensor.at("name").as_string());
    EXPECT_EQ(tensor.at("shape").dump(), known.at("shape").dump());
    EXPECT_EQ(tensor.at("dtype").as_string(), "f32");
    std::int64_t bytes = 4;
    for (const Json& extent : known.at("shape").items()) bytes *= extent.as_integer();
    EXPECT_EQ(tensor.at("bytes").as_integer(), bytes);
    const double norm = std::sqrt(known.at("sum_of_squares").as_number());
    EXPECT_NEAR(tensor.at("norm").as_number(), norm, 1e-14 * norm);
    EXPECT_EQ(tensor.at("not_finite").as_integer(), 0);
  }

  const std::string text = succeed({"inspect", path("run")}).standard_output;
  for (const char* part :
       {"step-00000002\n", "step        2\n", "layout      2 ranks, expert parallelism 2\n",
        "activation polynorm", "parameter   15 tensors", "router_bias", "[16, 4]", "norm"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " not in\n" << text;
  EXPECT_EQ(succeed({"inspect", checkpoint(), "--no-norms"}).standard_output.find("          norm"),
            std::string::npos);
}

TEST_F(CheckpointCommands, VerifyAndEveryLoadFindAFlippedBitInAnyFile) {
  EXPECT_NE(succeed({"verify", checkpoint()}).standard_output.find("valid; 3 files"),
            std::string::npos);
  for (const char* name :
       {"manifest.json", "shard-00000-of-00002.h5", "shard-00001-of-00002.h5", "view.h5"}) {
    const fs::path file = fs::path(checkpoint()) / name;
    const std::string whole = read_bytes(file);
    for (std::size_t at = 3; at < whole.size(); at += whole.size() / 7) {
      flip(file, at);
      const ProcessResult result = run({"verify", checkpoint()});
      expect_refusal(result, 65, "1 thing wrong");
      EXPECT_NE(result.standard_output.find(name), std::string::npos) << result.standard_output;
      expect_refusal(run({"inspect", checkpoint()}), 65, name);
      write_bytes(file, whole);
    }
  }
  fs::remove(fs::path(checkpoint()) / "view.h5");
  flip(fs::path(checkpoint()) / "shard-00001-of-00002.h5", 5000);
  const ProcessResult result = run({"verify", checkpoint()});
  expect_refusal(result, 65, "2 things wrong");
  EXPECT_EQ(std::count(result.standard_output.begin(), result.standard_output.end(), '\n'), 2);
  expect_refusal(run({"verify", path("absent")}), 65, "absent");
}

TEST_F(CheckpointCommands, VerifyTakesTheNewestOfARun) {
  EXPECT_NE(succeed({"verify", path("run")}).standard_output.find(checkpoint() + ": valid"),
            std::string::npos);
  // The newest it is, be it valid or not.
  fs::create_directory(path("run/checkpoints/step-00000009"));
  expect_refusal(run({"verify", path("run")}), 65, "step-00000009");
}

TEST_F(CheckpointCommands, ConvertAndDiff) {
  EXPECT_NE(
      succeed({"convert", checkpoint(), path("four/"), "--ranks", "4", "--expert-parallel", "2"})
          .standard_output.find("4 ranks, expert parallelism 2"),
      std::string::npos);
  EXPECT_NE(succeed({"verify", path("four")}).standard_output.find("valid; 5 files"),
            std::string::npos);
  // Another layout of the same content.
  const ProcessResult same = succeed({"diff", checkpoint(), path("four")});
  EXPECT_EQ(same.standard_output,
            "ranks: 2 | 4  (not content)\n46 of 46 tensors are equal bit for bit\n");
  succeed({"convert", path("four"), path("one"), "--ranks", "1"});
  succeed({"convert", path("one"), path("back"), "--ranks", "2", "--expert-parallel", "2"});
  // All but the manifest, which is of a newer version.
  for (const auto& entry : fs::directory_iterator(checkpoint())) {
    const fs::path name = entry.path().filename();
    if (name == manifest_name) continue;
    EXPECT_EQ(read_bytes(path("back") / name), read_bytes(entry.path())) << name;
  }

  succeed({"convert", path("four"), path("half"), "--ranks", "1", "--dtype", "bf16"});
  EXPECT_NE(succeed({"verify", path("half")}).standard_output.find("valid; 2 files"),
            std::string::npos);
  EXPECT_NE(succeed({"inspect", path("half")}).standard_output.find("  bf16  "), std::string::npos);
  EXPECT_NE(differ(path("one"), path("half")).find("parameter/embedding.weight: f32["),
            std::string::npos);

  expect_refusal(run({"convert", path("four"), path("new"), "--ranks=1", "--dtype=f16"}), 64,
                 "--dtype f16");
  expect_refusal(run({"convert", path("four"), path("one"), "--ranks", "1"}), 64, "exists");
  expect_refusal(run({"convert", path("four"), path("new"), "--ranks", "0"}), 64, "--ranks 0");
  expect_refusal(run({"convert", path("four"), path("new")}), 64, "--ranks N: must be given");
  expect_refusal(run({"convert", path("four"), path("new"), "--ranks=2", "--expert-parallel=4"}),
                 64, "parallel.expert = 4");
  expect_refusal(run({"convert", path("absent"), path("new"), "--ranks=2"}), 65, "absent");
  // Names for the two arguments, as of export-hf and import-hf.
  succeed({"convert", "--from", path("one"), "--to", path("named"), "--ranks=1"});
  expect_refusal(run({"convert", "--from", path("one"), "--ranks=1"}), 64, "--to: must be given");
  expect_refusal(run({"convert", path("one"), "--to", path("new"), "--ranks=1"}), 64,
                 "one': unexpected beside --from and --to");
  for (const char* command : {"export-hf", "import-hf"}) {
    expect_refusal(run({command, path("one")}), 64, std::string(command) + " needs DIR OUT");
    expect_refusal(run({command, "--from", path("absent"), "--to", path("new")}), 65, "absent");
  }
  expect_refusal(run({"convert", path("four"), path("one/view.h5/new"), "--ranks=2"}), 74, "new");
}

TEST_F(CheckpointCommands, DiffTellsWhatDiffers) {
  const ProcessResult itself = succeed({"diff", checkpoint(), path("run")});
  EXPECT_EQ(itself.standard_output, "46 of 46 tensors are equal bit for bit\n");

  CheckpointInfo info;
  info.step = 1;
  info.config = "[model]\nlayers = 2\n[run]\ndir = a\n";
  CheckpointInfo other = info;
  other.config = "[model]\nlayers = 3\n[train]\nseed = 1\n[run]\ndir = b\n";
  const std::string a = write("a", info, {{"common", {3, 4}}, {"only", {1}}, {"shape", {2}}});
  const std::string b = write("b", other, {{"common", {3, 5}}, {"shape", {3}}});
  const std::string close =
      write("close", info, {{"common", {3, 4.001f}}, {"only", {1}}, {"shape", {2}}});
  // Relative: 1 / sqrt(34).
  EXPECT_EQ(differ(a, b),
            "model.layers: 2 | 3\n"
            "run.dir: a | b  (not content)\n"
            "train.seed: (none) | 1\n"
            "common: relative difference 1.715e-01, largest 1.000e+00, 1 of 2 elements\n"
            "only: only in the first\n"
            "shape: relative difference 3.333e-01, largest 1.000e+00, 1 of 1 elements\n"
            "0 of 3 tensors are equal bit for bit; largest relative difference 3.333e-01\n");
  EXPECT_NE(differ(b, a).find("only: only in the second\n"), std::string::npos);
  EXPECT_NE(differ(a, close).find("common: relative difference 2.0"), std::string::npos);
  EXPECT_NE(succeed({"diff", a, close, "--tolerance", "0.001"}).standard_output.find("(tolerated)"),
            std::string::npos);
  EXPECT_EQ(run({"diff", a, close, "--tolerance", "0.0001"}).exit_code, 1);
  const std::string nan =
      write("nan", info, {{"common", {3, std::nanf("")}}, {"only", {1}}, {"shape", {2}}});
  EXPECT_EQ(run({"diff", a, nan, "--tolerance", "1e9"}).exit_code, 1);
  const ProcessResult damaged = run({"verify", nan});
  expect_refusal(damaged, 65, "1 thing wrong");
  EXPECT_NE(damaged.standard_output.find("tensor common has 1 elements that are not finite"),
            std::string::npos)
      << damaged.standard_output;
  expect_refusal(run({"diff", checkpoint()}), 64, "A B");
  expect_refusal(run({"diff", checkpoint(), path("absent")}), 65, "absent");
  expect_refusal(run({"diff", checkpoint(), checkpoint(), "--tolerance=-1"}), 64, "--tolerance -1");
}

TEST_F(CheckpointCommands, PruneKeepsTheNewest) {
  const fs::path root = path("run/checkpoints");
  for (const char* name : {"step-00000001", "step-00000000"}) fs::copy(checkpoint(), root / name);
  fs::create_directory(root / "step-00000009.partial");
  const ProcessResult result = succeed({"prune", path("run"), "--keep", "2"});
  for (const char* removed : {"step-00000000", "step-00000009.partial"}) {
    EXPECT_NE(result.standard_output.find("removed " + (root / removed).string() + "\n"),
              std::string::npos)
        << result.standard_output;
    EXPECT_FALSE(fs::exists(root / removed));
  }
  EXPECT_TRUE(fs::exists(root / "step-00000001"));
  succeed({"prune", root.string() + "/", "--keep=1"});
  EXPECT_FALSE(fs::exists(root / "step-00000001"));
  succeed({"verify", checkpoint()});
  expect_refusal(run({"prune", path("run"), "--keep", "0"}), 64, "--keep 0");
  expect_refusal(run({"prune", path("run")}), 64, "--keep");
  expect_refusal(run({"prune", path("absent"), "--keep", "1"}), 65, "absent");
}

}  // namespace
}  // namespace polymoe
