// SPDX-License-Identifier: Apache-2.0
#include "launch/bench/timing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "launch/bench/exchange_cost.h"
#include "launch/bench/kernel_cases.h"
#include "launch/layouts/measured_step.h"
#include "launch/machine/machine_rates.h"
#include "runtime/execution.h"
#include "runtime/files/json.h"
#include "tests/support/process.h"
#include "tests/support/run_ranks.h"

namespace polymoe {
namespace {

using test::ProcessResult;
using test::read_bytes;
using test::run_process;
using test::TemporaryDirectory;

const std::vector<std::string> tiny = {
    "--model.layers=2", "--model.hidden=16",       "--model.heads=2",
    "--model.vocab=64", "--model.context=8",       "--moe.experts=4",
    "--moe.top_k=2",    "--moe.expert_ffn=24",     "--moe.dense_layers=0",
    "--model.ffn=40",   "--train.global_batch=12", "--train.micro_batch=3"};

/// The tiny model with other values for some keys, or keys besides.
std::vector<std::string> tiny_with(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = tiny;
  for (const std::string& argument : more) {
    const std::string key = argument.substr(0, argument.find('=')) + "=";
    std::erase_if(arguments, [&](const std::string& old) { return old.starts_with(key); });
    arguments.push_back(argument);
  }
  return arguments;
}

Config tiny_config(const std::vector<std::string>& more) {
  return read_config("", tiny_with(more));
}

Execution small_execution() {
  return Execution({.device = Device::cpu(), .capacity = std::size_t{1} << 28});
}

TEST(BenchTest, FloorIsTheLongerOfBytesAndOperations) {
  const MachineRates rates{.copy = 10.0, .read = 20.0, .product = 100.0, .all_to_all = 0.0};
  const WorkFloor bytes{.bytes = 50.0, .operations = 400.0};
  EXPECT_DOUBLE_EQ(bytes.seconds(rates, 1), 5.0);
  EXPECT_FALSE(bytes.bound_by_products(rates));
  const WorkFloor operations{.bytes = 50.0, .operations = 600.0};
  EXPECT_DOUBLE_EQ(operations.seconds(rates, 1), 6.0);
  EXPECT_TRUE(operations.bound_by_products(rates));
  // The rates are of all ranks, the floor is of one.
  EXPECT_DOUBLE_EQ(operations.seconds(rates, 2), 12.0);
  const WorkFloor reading{.bytes = 50.0, .operations = 0.0, .reads_only = true};
  EXPECT_DOUBLE_EQ(reading.seconds(rates, 1), 2.5);
}

TEST(BenchTest, ARunTakesAsLongAsTheSlowestRank) {
  std::vector<Timing> timings(2);
  std::vector<int> bodies(2);
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    Stream stream(Device::cpu());
    const auto rank = static_cast<std::size_t>(world->rank());
    const auto body = [&] {
      ++bodies[rank];
      if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(4));
    };
    timings[rank] = time_runs(*world, body, {.fewest = 3, .most = 5, .seconds = 1e-3}, stream);
  });
  EXPECT_EQ(timings[0].runs, 3);
  EXPECT_EQ(bodies, (std::vector<int>{4, 4}));  // one to warm up
  EXPECT_GE(timings[0].fastest, 4e-3);
  EXPECT_LE(timings[0].fastest, timings[0].lower);
  EXPECT_LE(timings[0].lower, timings[0].median);
  EXPECT_LE(timings[0].median, timings[0].upper);
  EXPECT_EQ(timings[0].median, timings[1].median);
}

TEST(BenchTest, QuartilesOfSeveralRuns) {
  Execution c = small_execution();
  int runs = 0;
  const Timing timing = time_runs(
      *make_local_communicators(1).front(),
      [&] { std::this_thread::sleep_for(std::chrono::milliseconds(++runs == 5 ? 30 : 1)); },
      {.fewest = 5, .most = 5, .seconds = 0.0}, c.stream());
  EXPECT_EQ(timing.runs, 5);
  EXPECT_GE(timing.fastest, 1e-3);
  EXPECT_LT(timing.fastest, 30e-3);
}

TEST(BenchTest, RatesOfTheMachine) {
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    Execution c = small_execution();
    EXPECT_GT(measure_copy_bandwidth(*world, (1 << 20) + 3, c.context()), 0.0);
    EXPECT_GT(measure_read_bandwidth(*world, 1 << 20, c.context()), 0.0);
    EXPECT_GT(measure_product_rate(*world, {.extent = 64}, c.context()), 0.0);
    EXPECT_GT(measure_all_to_all_bandwidth(*world, 1 << 16, c.context()), 0.0);
    EXPECT_EQ(c.arena().mark(), 0U);
  });
  Execution c = small_execution();
  const auto alone = make_local_communicators(1);
  EXPECT_EQ(measure_all_to_all_bandwidth(*alone.front(), 1 << 16, c.context()), 0.0);
}

TEST(BenchTest, ExchangeCostAddsUpWhatRanksSent) {
  const Config config = tiny_config({"--parallel.expert=2"});
  run_ranks(2, [&](std::unique_ptr<Communicator> world) {
    Execution c = small_execution();
    const std::int64_t self = world->rank();
    ProcessMesh mesh(std::move(world), 2);
    // Of 2 steps with 3 passes each. The fuller rank is another in each layer.
    const std::vector<ExchangeTraffic> traffic = {
        {.passes = 6, .leaving_rows = 60, .leaving_slots = 90, .expert_rows = 100 + 20 * self},
        {.passes = 6,
         .leaving_rows = 20 + 40 * self,
         .leaving_slots = 90,
         .expert_rows = 120 - 40 * self}};
    const ExchangeCost cost = exchange_cost(traffic, 2, 0.5, config, mesh, c.context());
    EXPECT_EQ(cost.transfers, 4 * 2 * 3);
    EXPECT_DOUBLE_EQ(cost.rows, 4 * (60 + 40) / 2.0);
    EXPECT_DOUBLE_EQ(cost.slots, 4 * (90 + 90) / 2.0);
    // f32 rows of 16; beside a dispatched one 2 experts, 2 weights and 2 gradients.
    EXPECT_DOUBLE_EQ(cost.bytes, 200 * 16 * 4 + 50 * 2 * 12.0);
    EXPECT_DOUBLE_EQ(cost.fullest_over_mean, (120.0 + 120.0) / (110.0 + 100.0));
    EXPECT_GT(cost.bytes_per_second, 0.0);
    EXPECT_EQ(c.arena().mark(), 0U);
    mesh.shutdown();
  });
  ExchangeCost cost{.bytes = 20.0, .bytes_per_second = 10.0, .seconds_waited = 0.5};
  EXPECT_DOUBLE_EQ(cost.seconds_on_link(), 2.0);
  EXPECT_DOUBLE_EQ(cost.hidden(), 0.75);
  cost.seconds_waited = 3.0;
  EXPECT_EQ(cost.hidden(), 0.0);
}

TEST(BenchTest, FloorsOfKernels) {
  // 3 sequences of 8 tokens; each token in 2 of 4 experts: 48 rows, spread over this rank's 2.
  const Config config = tiny_config({"--parallel.expert=2"});
  const std::vector<KernelCase> kernels = kernel_cases(config, {.ranks = 2});
  const auto floor_of = [&](const std::string& name) {
    const auto found = std::find_if(kernels.begin(), kernels.end(),
                                    [&](const KernelCase& k) { return k.name == name; });
    EXPECT_NE(found, kernels.end()) << name;
    return found == kernels.end() ? WorkFloor() : found->floor;
  };
  const WorkFloor product = floor_of("product y = x w^T (q, o)");
  EXPECT_EQ(product.operations, 2.0 * 24 * 16 * 16);
  EXPECT_EQ(product.bytes, 4.0 * (24 * 16 + 16 * 16 + 24 * 16));
  EXPECT_EQ(floor_of("poly_norm of experts forward").bytes, 4.0 * 2 * 48 * 24);
  EXPECT_EQ(floor_of("poly_norm of dense backward").bytes, 4.0 * 4 * 24 * 40);
  // Two matrices forward, twice as many products backward.
  const WorkFloor forward = floor_of("feed_forward of experts forward");
  EXPECT_EQ(forward.operations, 2.0 * 2 * 48 * 16 * 24);
  EXPECT_EQ(forward.bytes, 4.0 * (2 * 48 * 16 + 48 * 24 + 2 * 2 * 16 * 24));
  EXPECT_EQ(floor_of("feed_forward of experts backward").operations, 2.0 * forward.operations);
  EXPECT_EQ(floor_of("feed_forward of dense forward").operations, 2.0 * 2 * 24 * 16 * 40);
  // Each of 8 queries sees on average 4.5 keys, by scores and by values, in all 16 columns.
  EXPECT_EQ(floor_of("attention forward").operations, 2.0 * 2 * 3 * 8 * 4.5 * 16);
  EXPECT_EQ(floor_of("attention backward").operations, 2.0 * 5 * 3 * 8 * 4.5 * 16);
  EXPECT_EQ(floor_of("output loss forward + backward").operations, 2.0 * 3 * 24 * 16 * 64);
  EXPECT_EQ(floor_of("dispatch scatter").bytes, 4.0 * 16 * (24 + 48));
}

TEST(BenchTest, EveryKernelRunsForEveryKindOfModel) {
  for (const std::vector<std::string>& model : std::vector<std::vector<std::string>>{
           {},
           {"--model.activation=swiglu", "--moe.shared_experts=1", "--moe.scores=sigmoid"},
           {"--model.activation=gelu", "--model.kv_heads=1", "--moe.experts=0",
            "--moe.dense_layers="}}) {
    std::set<std::string> names;
    for (const KernelCase& kernel : kernel_cases(tiny_config(model), {})) {
      EXPECT_TRUE(names.insert(kernel.name).second) << kernel.name;
      EXPECT_GT(kernel.floor.bytes, 0.0) << kernel.name;
      Execution c = small_execution();
      const std::function<void()> run = kernel.prepare(c.context());
      const std::size_t held = c.arena().mark();
      for (int i = 0; i < 2; ++i) EXPECT_NO_THROW(run()) << kernel.name;
      EXPECT_EQ(c.arena().mark(), held) << kernel.name;
    }
    EXPECT_TRUE(names.contains("adamw"));
    EXPECT_EQ(names.contains("router forward"), tiny_config(model).model.moe.experts > 0);
  }
}

ProcessResult run_bench(std::vector<std::string> start, const std::vector<std::string>& more) {
  start.insert(start.end(), {POLYMOE_PROGRAM, "bench"});
  for (const std::string& argument : tiny_with(more)) start.push_back(argument);
  return run_process(start);
}

TEST(BenchTest, ProgramOnTwoRanks) {
  const TemporaryDirectory directory;
  const std::string path = (directory.path() / "bench.json").string();
  const ProcessResult result = run_bench(
      {POLYMOE_LAUNCHER, "2"}, {"--run.threads=1", "--parallel.expert=2", "--json=" + path});
  ASSERT_EQ(result.exit_code, 0) << result.standard_error;
  const Json json = parse_json(read_bytes(path), path);
  const Json& machine = json.at("machine");
  EXPECT_EQ(machine.at("ranks").as_integer(), 2);
  for (const char* rate : {"copy_bytes_per_second", "read_bytes_per_second",
                           "product_operations_per_second", "all_to_all_bytes_per_second"})
    EXPECT_GT(machine.at(rate).as_number(), 0.0) << rate;
  for (const char* rate : {"all_to_all_bytes_per_second", "reduce_scatter_bytes_per_second",
                           "all_gather_bytes_per_second", "latency_seconds"})
    EXPECT_GT(machine.at("link").at(rate).as_number(), 0.0) << rate;
  EXPECT_EQ(read_measured_step(path).config.train.micro_batch, 3) << "what `plan --rates` reads";
  std::set<std::string> names;
  for (const Json& entry : json.at("results").items()) {
    const std::string& name = entry.at("name").as_string();
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_NE(result.standard_output.find("\n" + name + " "), std::string::npos) << name;
    EXPECT_GT(entry.at("seconds").as_number(), 0.0) << name;
    EXPECT_GE(entry.at("runs").as_integer(), 5) << name;
    EXPECT_GT(entry.at("share_of_ceiling").as_number(), 0.0) << name;
  }
  for (const char* name :
       {"step", "generation, a token", "generation, 32 texts", "attention backward"})
    EXPECT_TRUE(names.contains(name)) << name;
  const Json& step = json.at("step");
  EXPECT_GT(step.at("tokens_per_second").as_number(), 0.0);
  EXPECT_GT(step.at("seconds").at("exchange").as_number(), 0.0);
  EXPECT_GT(step.at("seconds").at("exchange_wait").as_number(), 0.0);
  // One of two layers has experts; 2 passes of 24 tokens, each of which leaves at most once.
  const Json& exchange = step.at("exchange");
  EXPECT_EQ(exchange.at("transfers").as_integer(), 4 * 1 * 2);
  EXPECT_GT(exchange.at("rows").as_number(), 0.0);
  EXPECT_LE(exchange.at("rows").as_number(), 4 * 2 * 24);
  EXPECT_GE(exchange.at("slots").as_number(), exchange.at("rows").as_number());
  EXPECT_GT(exchange.at("link_bytes_per_second").as_number(), 0.0);
  EXPECT_GE(exchange.at("fullest_over_mean").as_number(), 1.0);
  EXPECT_NE(result.standard_output.find("\nexchange of a rank: 8 transfers, "), std::string::npos)
      << result.standard_output;
  EXPECT_GT(step.at("peak_bytes").as_integer(), step.at("peak_bytes_before_model").as_integer());
}

TEST(BenchTest, ProgramSaysHowTokensWereRouted) {
  for (const std::string routing : {"balanced", "skewed"}) {
    const ProcessResult result =
        run_bench({}, {"--run.threads=1", "--filter=step", "--routing=" + routing});
    ASSERT_EQ(result.exit_code, 0) << result.standard_error;
    EXPECT_NE(result.standard_output.find(" sequences of 8, " + routing + " routing "),
              std::string::npos)
        << result.standard_output;
  }
  const auto expect_refused = [](const ProcessResult& result, const char* why) {
    EXPECT_EQ(result.exit_code, 64);
    EXPECT_NE(result.standard_error.find(why), std::string::npos) << result.standard_error;
  };
  expect_refused(run_bench({}, {"--routing=balanced", "--moe.experts=0"}),
                 "--routing: the model has no experts (moe.experts = 0)");
  expect_refused(run_bench({}, {"--routing=even"}),
                 "--routing = even: must be untrained, balanced or skewed");
}

TEST(BenchTest, ProgramSaysHowLongDocumentsWere) {
  const ProcessResult result = run_bench(
      {}, {"--run.threads=1", "--filter=step", "--data.documents=mask", "--document-tokens=4"});
  ASSERT_EQ(result.exit_code, 0) << result.standard_error;
  EXPECT_NE(result.standard_output.find(" sequences of 8, documents of 4 "), std::string::npos)
      << result.standard_output;

  const auto expect_refused = [](const std::vector<std::string>& options, const char* why) {
    const ProcessResult refused = run_bench({}, options);
    EXPECT_EQ(refused.exit_code, 64);
    EXPECT_NE(refused.standard_error.find(why), std::string::npos) << refused.standard_error;
  };
  expect_refused({"--document-tokens=4"}, "without data.documents = mask");
  expect_refused({"--data.documents=mask", "--document-tokens=9"},
                 "--document-tokens = 9: must be a whole number in [1, model.context = 8]");
}

TEST(BenchTest, ProgramWithFilter) {
  const ProcessResult some = run_bench({}, {"--run.threads=1", "--filter=router"});
  ASSERT_EQ(some.exit_code, 0) << some.standard_error;
  EXPECT_NE(some.standard_output.find("\nrouter backward "), std::string::npos);
  EXPECT_EQ(some.standard_output.find("\nadamw "), std::string::npos);
  EXPECT_EQ(some.standard_output.find("\nstep"), std::string::npos);

  const ProcessResult none = run_bench({}, {"--filter=rooter"});
  EXPECT_EQ(none.exit_code, 64);
  EXPECT_NE(none.standard_error.find("--filter rooter"), std::string::npos);
  EXPECT_NE(none.standard_error.find("router forward"), std::string::npos);

  const ProcessResult large =
      run_bench({}, {"--model.ffn=16000000", "--model.hidden=16384", "--filter=step"});
  EXPECT_EQ(large.exit_code, 64) << large.standard_error;
  EXPECT_NE(large.standard_error.find("GiB"), std::string::npos) << large.standard_error;

  const ProcessResult no_folder = run_bench({}, {"--filter=adamw", "--json=/absent/b.json"});
  EXPECT_EQ(no_folder.exit_code, 74);
  EXPECT_NE(no_folder.standard_error.find("/absent/b.json"), std::string::npos);
  EXPECT_EQ(no_folder.standard_output, "");
}

}  // namespace
}  // namespace polymoe
