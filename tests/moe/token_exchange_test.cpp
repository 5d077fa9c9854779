// SPDX-License-Identifier: Apache-2.0
#include "moe/token_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "parallel/communication/device_world.h"
#include "runtime/copy.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/error.h"
#include "runtime/execution.h"
#include "runtime/random.h"
#include "support/devices.h"
#include "support/random_tensor.h"
#include "support/run_ranks.h"

namespace polymoe {
namespace {

using test::tensor_of;
using test::values_of;

constexpr std::int64_t experts = 8, top_k = 2, width = 3;
// Ranks of a group have unequal tokens, two of eight have none.
constexpr std::int64_t tokens_of_rank[] = {5, 0, 17, 3, 1, 0, 2, 6};

using Choice = std::array<std::int32_t, top_k>;
struct Routing {
  const char* name;
  Choice (*choice)(std::int64_t token);
};

// Expert 3 is nobody's choice, some are many's.
Choice spread(std::int64_t token) {
  const RandomStream random(11, "choice");
  const auto first = static_cast<std::int32_t>(random.bits(static_cast<std::uint64_t>(token)) % 3);
  return {token % 4 == 0 ? 7 : 4 + first, first};
}
// Two neighbours take everything: on up to four ranks all rows go to one.
Choice one_pair(std::int64_t) { return {5, 4}; }

// Small whole numbers: their sums are exact in bf16.
double value(std::int64_t token, std::int64_t column) {
  return static_cast<double>(token + 32 * column);
}
double weight(std::int64_t token, std::int64_t slot) {
  return static_cast<double>(2 * token + slot + 1);
}
/// What an expert makes of a row.
double result(double x, std::int64_t expert) { return x + static_cast<double>(expert); }

/// A group of ranks, spread over nodes of so many each.
struct Ranks {
  int count, of_node;
};

// One rank of a group: its tokens are [first, first + tokens) of all.
struct Rank {
  Rank(std::unique_ptr<Communicator> host, const test::Placement& placement, const Routing& routing,
       double row_budget, int ranks_of_node = 1)
      : device{placement.device, 0},
        dtype(placement.dtype),
        choice(routing.choice),
        mesh(mesh_of(make_device_world(std::move(host), device, {.share_devices = true}),
                     ranks_of_node)),
        group(&mesh.expert()),
        of_node(ranks_of_node),
        exchange(mesh.expert_groups(), experts, row_budget, 0),
        execution({.device = device, .capacity = std::size_t{1} << 20, .poison = true}) {
    first = first_of(group->rank());
    tokens = tokens_of_rank[group->rank()];
  }
  static ProcessMesh mesh_of(DeviceWorld world, int ranks_of_node) {
    const int ranks = world.communicator->size();
    return {std::move(world.communicator), ranks, ranks_of_node};
  }
  static std::int64_t first_of(int rank) {
    return std::accumulate(tokens_of_rank, tokens_of_rank + rank, std::int64_t{0});
  }

  Tensor filled(const Shape& shape, DType of, const std::function<double(std::int64_t)>& element) {
    std::vector<double> values;
    for (std::int64_t i = 0; i < shape.elements(); ++i) values.push_back(element(i));
    const Tensor tensor = context.arena.allocate(shape, of);
    copy(*tensor_of(shape, of, values), tensor, context.stream);
    context.stream.synchronize();
    return tensor;
  }
  std::vector<double> fetched(const Tensor& tensor) {
    const OwnedTensor host(tensor.shape(), tensor.dtype(), Device::cpu());
    copy(tensor, *host, context.stream);
    context.stream.synchronize();
    return values_of(*host);
  }

  std::int32_t chosen(std::int64_t slot) const {
    return choice(first + slot / top_k)[static_cast<std::size_t>(slot % top_k)];
  }
  int rank_of(std::int64_t expert) const {
    return static_cast<int>(expert / (experts / group->size()));
  }
  int node_of(int rank) const { return rank / of_node; }
  bool wants_rank(std::int64_t token, int rank) const {
    return std::ranges::any_of(choice(token), [&](std::int32_t e) { return rank_of(e) == rank; });
  }
  bool wants_node(std::int64_t token, int node) const {
    return std::ranges::any_of(choice(token),
                               [&](std::int32_t e) { return node_of(rank_of(e)) == node; });
  }

  using Tokens = std::vector<std::int64_t>;
  // What a rank may send inside its node: its tokens, then those that ranks of its place in other
  // nodes sent to its node.
  Tokens known_to(int rank) const {
    Tokens known;
    const auto add = [&](int of, const std::function<bool(std::int64_t)>& wanted) {
      for (std::int64_t t = first_of(of); t < first_of(of + 1); ++t) {
        if (wanted(t)) known.push_back(t);
      }
    };
    add(rank, [](std::int64_t) { return true; });
    if (of_node == 1) return known;
    for (int r = rank % of_node; r < group->size(); r += of_node) {
      if (r != rank) add(r, [&](std::int64_t t) { return wants_node(t, node_of(rank)); });
    }
    return known;
  }
  // The ranks that send to this one what they know: of its node, or all.
  std::vector<int> neighbours() const {
    std::vector<int> ranks;
    for (int r = 0; r < group->size(); ++r) {
      if (r != group->rank() && (of_node == 1 || node_of(r) == node_of(group->rank())))
        ranks.push_back(r);
    }
    return ranks;
  }

  struct Row {
    std::int64_t token, expert, slot, source;
  };
  // This rank's experts' rows: each expert's own tokens, then those of the other ranks.
  std::vector<Row> expected_rows() const {
    Tokens sources = known_to(group->rank());
    for (const int r : neighbours()) {
      std::ranges::copy_if(known_to(r), std::back_inserter(sources),
                           [&](std::int64_t t) { return wants_rank(t, group->rank()); });
    }
    std::vector<Row> rows;
    for (std::int64_t e = 0; e < experts; ++e) {
      if (rank_of(e) != group->rank()) continue;
      for (std::size_t s = 0; s < sources.size(); ++s) {
        const Choice of_token = choice(sources[s]);
        for (std::size_t j = 0; j < of_token.size(); ++j) {
          if (of_token[j] == e)
            rows.push_back(
                {sources[s], e, static_cast<std::int64_t>(j), static_cast<std::int64_t>(s)});
        }
      }
    }
    return rows;
  }
  // Rows by hop: own tokens for each other node, then what is known for each other rank of the
  // node.
  std::vector<std::int64_t> expected_leaving() const {
    std::int64_t across = 0, within = 0;
    for (std::int64_t t = first; t < first + tokens; ++t) {
      for (int node = 0; node < group->size() / of_node; ++node)
        across += node != node_of(group->rank()) && wants_node(t, node) ? 1 : 0;
    }
    for (const std::int64_t t : known_to(group->rank())) {
      for (const int r : neighbours()) within += wants_rank(t, r) ? 1 : 0;
    }
    if (group->size() == 1) return {};
    if (of_node == 1) return {within};
    return {across, within};
  }

  Device device;
  DType dtype;
  Choice (*choice)(std::int64_t);
  ProcessMesh mesh;
  Communicator* group;
  int of_node;
  TokenExchange exchange;
  Execution execution;
  ExecutionContext& context = execution.context();
  std::int64_t first = 0, tokens = 0;
};

class TokenExchangeTest
    : public testing::TestWithParam<std::tuple<Ranks, Routing, test::Placement>> {
 protected:
  void SetUp() override {
    if (std::get<2>(GetParam()).device == DeviceType::cuda && cuda::device_count() == 0) {
      GTEST_SKIP() << cuda::unavailable_reason();
    }
  }
};

std::vector<double> part_of(const std::vector<double>& values, std::size_t first,
                            std::size_t count) {
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(first);
  return {begin, begin + static_cast<std::ptrdiff_t>(count)};
}

/// A round trip: what the experts read, and what comes home of what they made of it.
void expect_round_trip(Rank& rank, bool at_once) {
  ExchangePlan plan;
  const Tensor ids =
      rank.filled({rank.tokens, top_k}, DType::i32, [&](std::int64_t s) { return rank.chosen(s); });
  const DType wide = accumulation_dtype(rank.dtype);
  const Tensor weights = rank.filled({rank.tokens, top_k}, wide, [&](std::int64_t s) {
    return weight(rank.first + s / top_k, s % top_k);
  });
  const Tensor x = rank.filled({rank.tokens, width}, rank.dtype, [&](std::int64_t i) {
    return value(rank.first + i / width, i % width);
  });
  TokenExchange& exchange = rank.exchange;
  exchange.begin_plan(ids, weights, {}, plan, rank.context);
  const std::vector<Rank::Row> rows = rank.expected_rows();
  ASSERT_EQ(plan.received, static_cast<std::int64_t>(rows.size()));
  std::vector<std::int64_t> leaving;
  for (const ExchangeHop& hop : plan.hops) leaving.push_back(hop.leaving);
  EXPECT_EQ(leaving, rank.expected_leaving());
  const Tensor arrived = rank.context.arena.allocate({plan.arriving(), width}, rank.dtype);
  auto sent_ids = exchange.send_ids(plan, rank.context);
  auto arriving = exchange.start_dispatch(plan, x, arrived, rank.context);
  exchange.finish_plan(plan, sent_ids, rank.context);
  exchange.wait(arriving, rank.context);
  EXPECT_TRUE(plan.at_once || !at_once);
  EXPECT_EQ(plan.at_once, plan.rounds.size() == 1);

  auto home = exchange.allocate_home(plan, width, false, rank.dtype, rank.context.arena);
  auto slots_home = exchange.allocate_home(plan, top_k, true, wide, rank.context.arena);
  std::size_t rows_seen = 0;
  for (const ExpertRound& round : plan.rounds) {
    EXPECT_LE(round.rows(), plan.round_rows);
    EXPECT_EQ(round.first_row, static_cast<std::int64_t>(rows_seen));
    std::vector<double> expected_x, expected_weights, made, slots_made;
    for (const auto& [token, expert, slot, source] : rows) {
      if (source < round.begin || source >= round.end) continue;
      for (std::int64_t c = 0; c < width; ++c) {
        expected_x.push_back(value(token, c));
        made.push_back(result(value(token, c), expert));
      }
      expected_weights.push_back(weight(token, slot));
      slots_made.push_back(static_cast<double>(expert + 1));
    }
    const auto count = static_cast<std::size_t>(round.rows());
    ASSERT_EQ(expected_weights.size(), count);
    const Tensor read = rank.context.arena.allocate({round.rows(), width}, rank.dtype);
    exchange.scatter_arrived(plan, round, arrived, read, rank.context);
    exchange.scatter_own(plan, round, x, read, rank.context);
    EXPECT_EQ(rank.fetched(read), expected_x);
    EXPECT_EQ(part_of(rank.fetched(plan.row_weights), rows_seen, count), expected_weights);
    rows_seen += count;

    const Tensor results = rank.context.arena.allocate({round.rows(), width}, rank.dtype);
    const Tensor values = rank.context.arena.allocate({round.rows(), 1}, wide);
    copy(*tensor_of({round.rows(), width}, rank.dtype, made), results, rank.context.stream);
    copy(*tensor_of({round.rows(), 1}, wide, slots_made), values, rank.context.stream);
    rank.context.stream.synchronize();
    exchange.sum_arrived(plan, round, values, slots_home, rank.context);
    exchange.sum_arrived(plan, round, results, home, rank.context);
    exchange.sum_own(plan, round, values, slots_home, rank.context);
    exchange.sum_own(plan, round, results, home, rank.context);
  }
  EXPECT_EQ(rows_seen, rows.size());
  const Tensor y = rank.filled({rank.tokens, width}, rank.dtype, [](std::int64_t) { return 1.0; });
  const Tensor of_slots =
      rank.filled({rank.tokens, top_k}, wide, [](std::int64_t) { return -1.0; });
  exchange.send_home(plan, slots_home, rank.context);
  exchange.send_home(plan, home, rank.context);
  exchange.finish_home(plan, slots_home, Write::overwrite, of_slots, rank.context);
  exchange.finish_home(plan, home, Write::accumulate, y, rank.context);
  const std::vector<double> sums = rank.fetched(y), by_slot = rank.fetched(of_slots);
  for (std::int64_t i = 0; i < rank.tokens * width; ++i) {
    double sum = 1.0;
    for (const std::int32_t expert : rank.choice(rank.first + i / width)) {
      sum += result(value(rank.first + i / width, i % width), expert);
    }
    EXPECT_EQ(sums[static_cast<std::size_t>(i)], sum);
  }
  for (std::int64_t s = 0; s < rank.tokens * top_k; ++s) {
    EXPECT_EQ(by_slot[static_cast<std::size_t>(s)], rank.chosen(s) + 1.0);
  }
}

TEST_P(TokenExchangeTest, BringsEachExpertItsTokensOnceAndTheirResultsBack) {
  const Ranks ranks = std::get<0>(GetParam());
  run_ranks(ranks.count, [&](std::unique_ptr<Communicator> host) {
    Rank rank(std::move(host), std::get<2>(GetParam()), std::get<1>(GetParam()), 100.0,
              ranks.of_node);
    expect_round_trip(rank, true);
    rank.mesh.shutdown();
  });
}

TEST_P(TokenExchangeTest, WorksRowsBeyondTheBudgetOffInRounds) {
  const Ranks ranks = std::get<0>(GetParam());
  run_ranks(ranks.count, [&](std::unique_ptr<Communicator> host) {
    Rank rank(std::move(host), std::get<2>(GetParam()), std::get<1>(GetParam()), 1.0,
              ranks.of_node);
    expect_round_trip(rank, false);
    rank.mesh.shutdown();
  });
}

TEST(TokenExchangeRounds, TakeWhatOneRankHasTooMuchOf) {
  run_ranks(4, [&](std::unique_ptr<Communicator> host) {
    Rank rank(std::move(host), {DeviceType::cpu, DType::f32}, {"one_pair", one_pair}, 1.0);
    ExchangePlan plan;
    const Tensor ids = rank.filled({rank.tokens, top_k}, DType::i32,
                                   [&](std::int64_t s) { return rank.chosen(s); });
    const Tensor weights =
        rank.filled({rank.tokens, top_k}, DType::f32, [](std::int64_t) { return 1.0; });
    rank.exchange.begin_plan(ids, weights, {}, plan, rank.context);
    auto sent_ids = rank.exchange.send_ids(plan, rank.context);
    rank.exchange.finish_plan(plan, sent_ids, rank.context);
    // Experts 4 and 5 are of rank 2, which has 17 of 25 tokens: 34 rows are its share.
    EXPECT_EQ(plan.rounds.size(), rank.group->rank() == 2 ? 2U : 1U);
    if (rank.group->rank() == 2) {
      EXPECT_EQ(plan.received, 50);
      EXPECT_EQ(plan.rounds[0].rows(), 34);
      EXPECT_EQ(plan.rounds[1].rows(), 16);
    }
    rank.mesh.shutdown();
  });
}

TEST(TokenExchangeCounts, OfAnotherLayerAreRefusedBeforeRowsArePosted) {
  run_ranks(2, [&](std::unique_ptr<Communicator> host) {
    Rank rank(std::move(host), {DeviceType::cpu, DType::f32}, {"spread", spread}, 100.0);
    TokenExchange exchange({*rank.group}, experts, 100.0, 3 + rank.group->rank());
    ExchangePlan plan;
    const Tensor ids = rank.filled({rank.tokens, top_k}, DType::i32,
                                   [&](std::int64_t s) { return rank.chosen(s); });
    const Tensor weights =
        rank.filled({rank.tokens, top_k}, DType::f32, [](std::int64_t) { return 1.0; });
    try {
      exchange.begin_plan(ids, weights, {}, plan, rank.context);
      ADD_FAILURE() << "rank " << rank.group->rank() << " went on";
    } catch (const CommunicationError& error) {
      const std::string message = error.what();
      const std::string peer = rank.group->rank() == 0 ? "rank 1" : "rank 0";
      EXPECT_NE(message.find(peer + " of the expert group announces the rows of layer " +
                             std::to_string(4 - rank.group->rank())),
                std::string::npos)
          << message;
    }
    rank.mesh.shutdown();
  });
}

TEST(TokenExchangeCounts, OfMoreSlotsThanRowsAllowAreRefused) {
  run_ranks(2, [&](std::unique_ptr<Communicator> host) {
    Rank rank(std::move(host), {DeviceType::cpu, DType::f32}, {"spread", spread}, 100.0);
    if (rank.group->rank() == 0) {
      // To rank 1: layer 0 of the same model, one row, three slots for the first expert.
      constexpr std::size_t per_peer = 2 + experts / 2;
      std::vector<std::int64_t> send(2 * per_peer, 0), receive(2 * per_peer);
      send[per_peer] = (experts << 16) | top_k;
      send[per_peer + 1] = 1;
      send[per_peer + 2] = 3;
      rank.group->all_to_all_counts(send, receive);
      EXPECT_EQ(receive[per_peer], send[per_peer]);  // rank 1's to rank 0
    } else {
      ExchangePlan plan;
      const Tensor ids = rank.filled({0, top_k}, DType::i32, [](std::int64_t) { return 0.0; });
      const Tensor weights = rank.filled({0, top_k}, DType::f32, [](std::int64_t) { return 1.0; });
      try {
        rank.exchange.begin_plan(ids, weights, {}, plan, rank.context);
        ADD_FAILURE() << "rank 1 went on";
      } catch (const CommunicationError& error) {
        EXPECT_NE(std::string(error.what()).find("announces 1 rows for 3 slots in layer 0"),
                  std::string::npos)
            << error.what();
      }
    }
    rank.mesh.shutdown();
  });
}

INSTANTIATE_TEST_SUITE_P(
    RanksAndDevices, TokenExchangeTest,
    testing::Combine(testing::Values(Ranks{1, 1}, Ranks{2, 1}, Ranks{4, 1}, Ranks{8, 1},
                                     Ranks{4, 2}, Ranks{8, 2}, Ranks{8, 4}),
                     testing::Values(Routing{"spread", spread}, Routing{"one_pair", one_pair}),
                     testing::ValuesIn(test::placements())),
    [](const auto& test) {
      const auto& placement = std::get<2>(test.param);
      const Ranks ranks = std::get<0>(test.param);
      const std::string nodes =
          ranks.of_node == 1 ? "" : "_in_nodes_of_" + std::to_string(ranks.of_node);
      return std::to_string(ranks.count) + nodes + "_" + std::get<1>(test.param).name + "_" +
             (placement.device == DeviceType::cuda ? "cuda_" : "cpu_") + name_of(placement.dtype);
    });

}  // namespace
}  // namespace polymoe
