// SPDX-License-Identifier: Apache-2.0
#include "launch/scaling/law.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "launch/scaling/optimum.h"
#include "runtime/error.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

using test::TemporaryDirectory;
using test::write_bytes;

constexpr double alpha = 0.34, beta = 0.37;

double law_of(double parameters, double tokens) {
  return 1.7 + 400.0 * std::pow(parameters, -alpha) + 1000.0 * std::pow(tokens, -beta);
}

std::vector<ScalingRun> grid(int sizes) {
  std::vector<ScalingRun> runs;
  for (int size = 0; size < sizes; ++size)
    for (int length = 0; length < 4; ++length) {
      ScalingRun run;
      run.parameters = 1e7 * std::pow(2.0, size);
      run.tokens = 1e8 * std::pow(2.0, size + length);
      run.trunk = std::to_string(size);
      run.flops = 6.0 * run.parameters * run.tokens;
      run.memory_parameters = 2.0 * run.parameters;
      // No noise, but a little that is not the law's.
      run.loss = law_of(run.parameters, run.tokens) * (1.0 + 1e-4 * ((size + length) % 3 - 1));
      runs.push_back(run);
    }
  return runs;
}

TEST(ScalingLawTest, TheBestSizeIsWhereTheLawHasIt) {
  const ScalingLaw law = make_law(ScalingForm::chinchilla, grid(5), ParameterCount::total, "", 100);
  constexpr double flops = 1e19;
  const Optimum best = best_for(law, {.flops = flops});
  // d/dN of A N^-a + B (C / 6N)^-b is zero at N = (a A / (b B) (C / 6)^b)^(1 / (a + b)).
  const double expected =
      std::pow(alpha * 400.0 / (beta * 1000.0) * std::pow(flops / 6.0, beta), 1.0 / (alpha + beta));
  EXPECT_NEAR(std::log(best.run.parameters / expected), 0.0, 0.05);
  EXPECT_NEAR(best.run.parameters * best.run.tokens * 6.0, flops, 1e-6 * flops);
  EXPECT_FALSE(best.at_edge);
  EXPECT_LE(best.parameters_80.low, best.run.parameters);
  EXPECT_GE(best.parameters_80.high, best.run.parameters);
  // Two parameters are stored for one of N.
  const Optimum bounded = best_for(law, {.flops = flops, .most_stored = expected / 2.0});
  EXPECT_TRUE(bounded.at_edge);
  EXPECT_NEAR(bounded.run.parameters, expected / 4.0, 1e-3 * expected);
  // With the tokens given, the largest that fits is best.
  const Optimum filled = best_for(law, {.tokens = 1e9, .most_stored = expected / 2.0});
  EXPECT_TRUE(filled.at_edge);
  EXPECT_NEAR(filled.run.parameters, expected / 4.0, 1e-3 * expected);
  EXPECT_NEAR(filled.run.flops, 6e9 * filled.run.parameters, 1e-3 * filled.run.flops);
  EXPECT_THROW(best_for(law, {.flops = flops, .most_stored = 1e3}), InvalidArgument);
}

TEST(ScalingLawTest, TheBestNumberOfExpertsDependsOnTheBudget) {
  // X experts for one that is taken store (1 + X) / 2 for one of N. More of them learn more of
  // parameters and less of tokens: delta < 0, omega > 0.
  std::vector<ScalingRun> runs;
  for (const ScalingRun& run : grid(5))
    for (const double experts : {1.0, 4.0, 16.0}) {
      ScalingRun moe = run;
      moe.experts = experts;
      moe.memory_parameters = run.parameters * (1.0 + experts) / 2.0;
      moe.loss = 1.7 + 400.0 * std::pow(experts, -0.15) * std::pow(run.parameters, -alpha) +
                 1000.0 * std::pow(experts, 0.05) * std::pow(run.tokens, -beta);
      runs.push_back(moe);
    }
  const ScalingLaw law = make_law(ScalingForm::moe, runs, ParameterCount::active, "", 100);
  EXPECT_NEAR(law.stored.at(16.0), 8.5, 1e-9);
  // Without a bound on memory: at its best size the law's two terms are as alpha and beta say, and
  // -0.15 beta / (alpha + beta) + 0.05 alpha / (alpha + beta) < 0, so that many experts are best.
  const Optimum free = best_for(law, {.flops = 1e18});
  EXPECT_NEAR(free.run.experts, 16.0, 1e-9);
  // Little memory is better spent on N.
  const Optimum bounded = best_for(law, {.flops = 1e18, .most_stored = 2e7});
  EXPECT_NEAR(bounded.run.experts, 1.0, 1e-9);
  EXPECT_TRUE(bounded.at_edge);
  EXPECT_NEAR(bounded.run.parameters, 2e7, 1e5);
}

TEST(ScalingLawTest, TheLargestSizeIsPredictedByTheOthers) {
  const auto held_out = hold_out_largest(ScalingForm::chinchilla, grid(5), 100);
  ASSERT_TRUE(held_out);
  EXPECT_DOUBLE_EQ(held_out->parameters, 1.6e8);
  ASSERT_EQ(held_out->runs.size(), 4U);
  EXPECT_LT(held_out->mean_error, 2e-3);
  EXPECT_FALSE(hold_out_largest(ScalingForm::chinchilla, grid(2), 100));
}

TEST(ScalingLawTest, ALawSurvivesItsFile) {
  const TemporaryDirectory directory;
  const ScalingLaw law =
      make_law(ScalingForm::chinchilla, grid(5), ParameterCount::active, "polynorm", 100);
  write_bytes(directory.path() / "fit.json", law_json(law).dump());
  const ScalingLaw read = read_law(directory.path() / "fit.json");
  EXPECT_EQ(read.fit.theta, law.fit.theta);
  EXPECT_EQ(read.draws, law.draws);
  EXPECT_EQ(read.activation, "polynorm");
  EXPECT_DOUBLE_EQ(read.stored.at(1.0), 2.0);
  EXPECT_NEAR(read.tokens_per_flop.at(1.0), 1.0 / 6.0, 1e-12);
  write_bytes(directory.path() / "other.json", "{\"form\":\"cubic\",\"N\":\"active\"}");
  EXPECT_THROW(read_law(directory.path() / "other.json"), InputFileError);
}

TEST(ScalingLawTest, TooLittleIsRefused) {
  EXPECT_TRUE(fit_violations(ScalingForm::chinchilla, grid(3)).empty());
  const auto few = fit_violations(ScalingForm::chinchilla, grid(2));
  ASSERT_EQ(few.size(), 2U);
  EXPECT_NE(few[0].find("8 finished runs: a law of 5 parameters needs at least 10"),
            std::string::npos)
      << few[0];
  EXPECT_NE(few[1].find("2 different values of parameters"), std::string::npos) << few[1];
  EXPECT_EQ(fit_violations(ScalingForm::moe, grid(5)).size(), 1U) << "all with the same experts";
}

TEST(ScalingLawTest, WhatTheRunsDoNotTellIsNamed) {
  std::vector<ScalingRun> runs = grid(5);
  EXPECT_TRUE(undetermined_terms(fit_scaling_law(ScalingForm::chinchilla, runs), runs).empty());
  for (ScalingRun& run : runs)  // nothing is irreducible
    run.loss = 400.0 * std::pow(run.parameters, -0.1) + 1000.0 * std::pow(run.tokens, -beta);
  const auto terms = undetermined_terms(fit_scaling_law(ScalingForm::chinchilla, runs), runs);
  EXPECT_EQ(terms, std::vector<std::string>{"E"});
  const ScalingLaw law = make_law(ScalingForm::chinchilla, runs, ParameterCount::total, "", 100);
  ScalingRun far = runs.back();
  EXPECT_TRUE(far_from_runs(law, far).empty());
  far.tokens *= 20.0;
  far.parameters = runs.front().parameters / 30.0;
  const auto lines = far_from_runs(law, far);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_NE(lines[0].find("30 times less than the smallest"), std::string::npos) << lines[0];
  EXPECT_NE(lines[1].find("20 times the largest"), std::string::npos) << lines[1];
}

TEST(ScalingRunsTest, RunsAreThoseOfTheReport) {
  const std::string head =
      "trunk,\"model.hidden, twice\",activation,experts,top_k,hidden,expert_width,"
      "total_parameters,active_parameters,embedding_parameters,tokens,flops,state,train_loss,"
      "valid_loss,diverged\n";
  RunTable file{.name = "runs.csv",
                .text = head +
                        "t1,\"a, \"\"b\"\"\",polynorm,16,4,512,384,600,300,100,5000,9e6,finished,"
                        "3.5,3.25,false\n"
                        "t2,c,swiglu,0,0,512,1408,400,400,100,5000,9e6,finished,3.75,3.5,false\n"
                        "t3,c,polynorm,16,4,512,384,600,300,100,5000,9e6,unfinished,3.5,,false\n"
                        "t4,c,polynorm,16,4,512,384,600,300,100,5000,9e6,finished,9.5,9.5,true\n"};
  const auto runs = read_scaling_runs({file}, ParameterCount::active_no_embeddings, "polynorm");
  ASSERT_EQ(runs.size(), 1U);
  EXPECT_EQ(runs[0].parameters, 200.0);
  EXPECT_EQ(runs[0].experts, 4.0);
  EXPECT_DOUBLE_EQ(runs[0].granularity, 4.0 * 512.0 / 384.0);
  EXPECT_EQ(runs[0].loss, 3.25);
  EXPECT_THROW(read_scaling_runs({file}, ParameterCount::total, ""), InvalidArgument);
  EXPECT_THROW(read_scaling_runs({file}, ParameterCount::total, "gelu"), InvalidArgument);
  file.text = "trunk,loss\n";
  EXPECT_THROW(read_scaling_runs({file}, ParameterCount::total, ""), InputFileError);
  file.text = head + "t1,a,polynorm,16\n";
  EXPECT_THROW(read_scaling_runs({file}, ParameterCount::total, ""), InputFileError);
}

}  // namespace
}  // namespace polymoe
