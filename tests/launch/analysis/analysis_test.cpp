// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <numeric>

#include "launch/analysis/analysis.h"
#include "launch/analysis/analysis_json.h"
#include "launch/analysis/analysis_page.h"
#include "launch/checkpoints/resume.h"
#include "launch/inference/saved_model.h"
#include "launch/step/evaluation.h"
#include "launch/step/token_batch.h"
#include "parallel/checkpoint/names.h"
#include "parallel/communication/local/local_communicator.h"
#include "runtime/copy.h"
#include "runtime/error.h"
#include "tests/launch/training/tiny_training.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

namespace fs = std::filesystem;

/// A small run with two checkpoints.
class AnalysisTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new test::TemporaryDirectory();
    Config config = test::tiny_config(directory_->path());
    config.train.steps = 4;
    config.checkpoint.every = 2;
    config.checkpoint.keep = 0;
    test::write_tokens(directory_->path() / "tokens", 5000, config.model.vocab, 3);
    test::train(config, {.ranks = 2, .expert_parallel = 2});
  }
  static void TearDownTestSuite() {
    delete directory_;
    directory_ = nullptr;
  }

  static fs::path run() { return directory_->path() / "run"; }
  static CheckpointReader checkpoint() {
    std::vector<std::string> notes;
    return CheckpointReader(resolve_checkpoint(run(), notes));
  }
  static Config config() { return parse_config(checkpoint().info().config, "checkpoint", {}); }
  static TokenFile tokens() { return TokenFile::open(directory_->path() / "tokens", 2); }
  static TokenAnalysis look(const fs::path& path, std::int64_t max_tokens,
                            std::int64_t windows_per_batch) {
    SavedModel saved(path, std::move(make_local_communicators(1)[0]), {.threads = 1});
    TokenAnalysis analysis = analyze_tokens(
        saved.model(), tokens(), {.max_tokens = max_tokens, .windows_per_batch = windows_per_batch},
        saved.context(), {});
    saved.shutdown();
    return analysis;
  }

  static test::TemporaryDirectory* directory_;
};
test::TemporaryDirectory* AnalysisTest::directory_ = nullptr;

TEST_F(AnalysisTest, WeightsOfEveryExpertAreLookedAt) {
  const CheckpointReader reader = checkpoint();
  const ModelConfig model = config().model;
  const std::vector<MatrixSpectrum> spectra = matrix_spectra(reader, model, {});
  std::int64_t of_experts = 0;
  for (const MatrixSpectrum& spectrum : spectra) {
    EXPECT_EQ(static_cast<std::int64_t>(spectrum.values.size()),
              std::min(spectrum.rows, spectrum.columns));
    EXPECT_GT(spectrum.effective_rank, 1.0) << spectrum.name;
    EXPECT_LE(spectrum.effective_rank, static_cast<double>(spectrum.values.size()) + 1e-9);
    of_experts += spectrum.expert >= 0;
  }
  const int parts = pre_activation_factor(model.activation.kind) + 1;
  const std::vector<ExpertSimilarity> similarities = expert_similarities(reader, model, {});
  ASSERT_FALSE(similarities.empty());
  EXPECT_EQ(of_experts, static_cast<std::int64_t>(similarities.size()) * model.moe.experts * parts);
  for (const ExpertSimilarity& layer : similarities)
    for (std::int64_t a = 0; a < layer.experts; ++a) {
      const auto at = [&](std::int64_t i, std::int64_t j) {
        return layer.cosines[static_cast<std::size_t>(i * layer.experts + j)];
      };
      EXPECT_NEAR(at(a, a), 1.0, 1e-12);
      for (std::int64_t b = 0; b < a; ++b) {
        EXPECT_EQ(at(a, b), at(b, a));
        EXPECT_LT(std::abs(at(a, b)), 0.9);  // experts start apart
      }
    }
}

TEST_F(AnalysisTest, CoefficientsAreThoseOfEveryCheckpoint) {
  const std::vector<CoefficientHistory> histories = coefficient_histories(checkpoint());
  ASSERT_FALSE(histories.empty());
  for (const CoefficientHistory& history : histories) {
    EXPECT_EQ(history.steps, (std::vector<std::int64_t>{2, 4})) << history.name;
    const auto contents = test::checkpoint_contents(run() / "checkpoints" / checkpoint_name(4));
    const std::vector<float>& last = contents.at("parameter/" + history.name + ".coefficients");
    ASSERT_EQ(history.values[1].size(), last.size());
    for (std::size_t i = 0; i < last.size(); ++i) EXPECT_EQ(history.values[1][i], last[i]);
    EXPECT_NE(history.values[0], history.values[1]);  // they learn
  }
}

TEST_F(AnalysisTest, TokensAreCountedOnceAndTheLossIsThatOfEval) {
  const std::int64_t windows = 6, context = config().model.context;
  const TokenAnalysis analysis = look(run(), windows * context, 4);
  EXPECT_EQ(analysis.tokens, windows * context);
  SavedModel saved(run(), std::move(make_local_communicators(1)[0]), {.threads = 1});
  const Evaluation expected =
      evaluate(saved.model(), tokens(), {.context = context, .max_windows = windows}, saved.mesh(),
               saved.context());
  saved.shutdown();
  EXPECT_NEAR(analysis.loss, expected.loss(), 1e-5 * expected.loss());

  const auto states = static_cast<std::size_t>(analysis.states);
  for (std::size_t i = 0; i < states; ++i)
    EXPECT_NEAR(analysis.similarity[i * states + i], 1.0, 1e-5);
  ASSERT_FALSE(analysis.routing.empty());
  for (const LayerRouting& layer : analysis.routing) {
    const std::int64_t slots =
        std::accumulate(layer.expert_tokens.begin(), layer.expert_tokens.end(), std::int64_t{0});
    EXPECT_EQ(slots, analysis.tokens * layer.top_k);
    EXPECT_LE(layer.entropy, std::log(static_cast<double>(layer.experts)) + 1e-12);
    for (std::size_t e = 0; e < layer.expert_tokens.size(); ++e) {
      // Beside itself a token has top_k - 1 other experts.
      const auto row = layer.together.begin() + static_cast<std::ptrdiff_t>(e) * layer.experts;
      EXPECT_EQ(std::accumulate(row, row + layer.experts, std::int64_t{0}),
                layer.expert_tokens[e] * layer.top_k);
    }
  }
}

TEST_F(AnalysisTest, TheCurveIsTheActivationOverWhatItSees) {
  const TokenAnalysis analysis = look(run(), 64, 0);
  ASSERT_EQ(static_cast<std::int64_t>(analysis.activations.size()), config().model.layers);
  for (const LayerActivation& layer : analysis.activations) {
    const double width = layer.x[1] - layer.x[0];
    EXPECT_NEAR(std::accumulate(layer.density.begin(), layer.density.end(), 0.0) * width, 1.0,
                0.01);
    EXPECT_GT(layer.deviation, 0.0);
  }
}

TEST_F(AnalysisTest, SaturationIsTheShareOfCommonChoices) {
  const TokenAnalysis now = look(run(), 64, 2);
  for (const double share : routing_saturation(now, now)) EXPECT_EQ(share, 1.0);
  const TokenAnalysis before = look(run() / "checkpoints" / checkpoint_name(2), 64, 2);
  for (const double share : routing_saturation(before, now)) {
    EXPECT_GT(share, 0.0);
    EXPECT_LE(share, 1.0);
  }
  const TokenAnalysis fewer = look(run(), 32, 2);
  EXPECT_THROW(routing_saturation(fewer, now), InvalidArgument);
}

/// What an expert makes of a row by the formula of the feed-forward, from its stored values.
std::vector<double> by_hand(const std::map<std::string, std::vector<float>>& values,
                            const std::string& layer, std::int64_t expert, const float* x,
                            std::size_t hidden) {
  const std::string stem = layer + ".experts." + std::to_string(expert);
  const std::vector<float>&up = values.at(stem + ".up.weight"),
        &down = values.at(stem + ".down.weight"), &a = values.at(layer + ".experts.coefficients");
  const std::size_t width = down.size() / hidden;
  std::vector<double> pre(width, 0.0), activated(width, a[0]), y(hidden, 0.0);
  for (std::size_t i = 0; i < width; ++i)
    for (std::size_t j = 0; j < hidden; ++j) pre[i] += double{up[i * hidden + j]} * x[j];
  for (int power = 1; power <= 3; ++power) {
    double squares = 0.0;
    for (const double value : pre) squares += std::pow(value, 2 * power);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + 1e-6);
    for (std::size_t i = 0; i < width; ++i)
      activated[i] += a[static_cast<std::size_t>(power)] * std::pow(pre[i], power) * scale;
  }
  for (std::size_t j = 0; j < hidden; ++j)
    for (std::size_t i = 0; i < width; ++i) y[j] += double{down[j * width + i]} * activated[i];
  return y;
}

double cosine(const std::vector<double>& a, const std::vector<double>& b) {
  const auto dot = [](const std::vector<double>& u, const std::vector<double>& v) {
    return std::inner_product(u.begin(), u.end(), v.begin(), 0.0);
  };
  return dot(a, b) / std::sqrt(dot(a, a) * dot(b, b));
}

TEST_F(AnalysisTest, ExpertsAreComparedByWhatTheyMakeOfTheSameTokens) {
  const ModelConfig model = config().model;
  const auto hidden = static_cast<std::size_t>(model.hidden);
  const auto contents = test::checkpoint_contents(run() / "checkpoints" / checkpoint_name(4));
  std::map<std::string, std::vector<float>> values;
  for (const auto& [name, tensor] : contents)
    if (name.starts_with(parameter_kind)) values[name.substr(parameter_kind.size())] = tensor;

  // Two batches, one of fewer rows than the sample and one of more.
  for (const std::int64_t windows : {std::int64_t{2}, std::int64_t{20}}) {
    SCOPED_TRACE(windows);
    const TokenAnalysis analysis = look(run(), windows * model.context, windows);
    const std::int64_t rows = windows * model.context, taken = std::min<std::int64_t>(rows, 256);
    EXPECT_EQ(analysis.output_tokens, taken);
    ASSERT_EQ(static_cast<std::int64_t>(analysis.outputs.size()), model.layers);

    SavedModel saved(run(), std::move(make_local_communicators(1)[0]), {.threads = 1});
    std::vector<std::vector<float>> inputs;  // of each layer
    const Arena::Scope scope(saved.context().arena);
    const TokenFile file = tokens();
    const TokenBatch batch = make_batch(
        {.sequences = windows, .length = model.context},
        [&](const TokenRows& to) {
          file.read(0, rows, to.tokens);
          file.read(1, rows, to.targets);
        },
        saved.context());
    saved.model().observe(
        batch,
        [&](const LayerObservation& seen) {
          if (seen.layer >= 0)
            inputs.push_back(host_values<float>(seen.feed_forward().x, saved.context().stream));
        },
        saved.context());
    for (std::size_t l = 0; l < inputs.size(); ++l) {
      std::vector<double> expected(static_cast<std::size_t>(model.moe.experts * model.moe.experts));
      for (std::int64_t i = 0; i < taken; ++i) {
        const float* x = inputs[l].data() + static_cast<std::size_t>(i * rows / taken) * hidden;
        std::vector<std::vector<double>> made;
        for (std::int64_t e = 0; e < model.moe.experts; ++e)
          made.push_back(by_hand(values, "layers." + std::to_string(l), e, x, hidden));
        for (std::size_t a = 0; a < made.size(); ++a)
          for (std::size_t b = 0; b < made.size(); ++b)
            expected[a * made.size() + b] += cosine(made[a], made[b]) / static_cast<double>(taken);
      }
      EXPECT_EQ(analysis.outputs[l].layer, static_cast<std::int64_t>(l));
      ASSERT_EQ(analysis.outputs[l].cosines.size(), expected.size());
      for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_NEAR(analysis.outputs[l].cosines[i], expected[i], 1e-4)
            << "layer " << l << ", " << i;
    }
    saved.shutdown();
  }
}

TEST_F(AnalysisTest, EverythingIsToldAndDrawn) {
  Analysis analysis{.checkpoint = "here", .step = 4, .activation = "polynorm"};
  const CheckpointReader reader = checkpoint();
  analysis.spectra = matrix_spectra(reader, config().model, {});
  analysis.similarities = expert_similarities(reader, config().model, {});
  analysis.coefficients = coefficient_histories(reader);
  analysis.tokens = look(run(), 64, 2);
  analysis.saturation = routing_saturation(*analysis.tokens, *analysis.tokens);
  const Json json = parse_json(analysis_json(analysis, nullptr).dump(), "analysis");
  EXPECT_EQ(json.at("matrices").items().size(), analysis.spectra.size());
  EXPECT_EQ(json.at("on_tokens").at("tokens").as_integer(), 64);
  EXPECT_EQ(json.at("on_tokens").at("routing").items().size(), analysis.tokens->routing.size());
  const std::vector<Json>& outputs = json.at("on_tokens").at("expert_output_similarity").items();
  ASSERT_EQ(outputs.size(), analysis.tokens->outputs.size());
  EXPECT_EQ(outputs[1].at("cosines").items()[0].items()[1].as_number(),
            analysis.tokens->outputs[1].cosines[1]);
  EXPECT_EQ(json.at("routing_saturation").items().size(), analysis.saturation.size());
  if (std::system("gnuplot --version >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "gnuplot is not installed";
  const Page page = analysis_page(analysis, nullptr);
  EXPECT_GE(page.figures(), 8);
  for (const char* words :
       {"Effective rank", "Similarity of hidden states", "Load of the experts",
        "Experts that go together", "Over time: layers.0", "Weights of the experts of layer 0",
        "Results of the experts of layer 0"})
    EXPECT_NE(page.html().find(words), std::string::npos) << words;
}

}  // namespace
}  // namespace polymoe
