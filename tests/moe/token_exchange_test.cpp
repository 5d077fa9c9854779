// SPDX-License-Identifier: Apache-2.0
#include "moe/token_exchange.h"

#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "runtime/random.h"
#include "support/random_tensor.h"
#include "support/run_ranks.h"

namespace polymoe {
namespace {

constexpr std::int64_t experts = 8, top_k = 2, width = 3;
// Ranks of a group have unequal tokens, one has none.
constexpr std::int64_t tokens_of_rank[] = {5, 0, 17, 3};

// Experts of the token: expert 3 is nobody's choice, some are many's.
std::vector<std::int32_t> choice(std::int64_t token) {
  const RandomStream random(11, "choice");
  const auto first = static_cast<std::int32_t>(random.bits(static_cast<std::uint64_t>(token)) % 3);
  return {first, token % 4 == 0 ? 7 : 4 + first};
}

double value(std::int64_t token, std::int64_t column) {
  return static_cast<double>(10 * token + column + 1);
}

class TokenExchangeTest : public testing::TestWithParam<std::tuple<int, TokenExchange::Route>> {};

// One rank of a group: its tokens are [first, first + tokens) of all.
struct Rank {
  Rank(std::unique_ptr<Communicator> communicator, TokenExchange::Route route)
      : group(std::move(communicator)), exchange(*group, experts, route) {
    for (int r = 0; r < group->size(); ++r) {
      if (r == group->rank()) first = all_tokens;
      all_tokens += tokens_of_rank[r];
    }
    tokens = tokens_of_rank[group->rank()];
  }

  Tensor filled(const Shape& shape, const std::function<double(std::int64_t)>& element) {
    const Tensor tensor = arena.allocate(shape, DType::f64);
    for (std::int64_t i = 0; i < tensor.elements(); ++i) tensor.data<double>()[i] = element(i);
    return tensor;
  }

  void plan_choices(TokenExchange::Plan& plan) {
    const Tensor ids = arena.allocate({tokens, top_k}, DType::i32);
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t k = 0; k < top_k; ++k) {
        ids.data<std::int32_t>()[t * top_k + k] = choice(first + t)[static_cast<std::size_t>(k)];
      }
    }
    exchange.make_plan(ids, Tensor(), {}, plan, context);
  }

  // The tokens of the whole group that chose one of this rank's experts, in the order of the rows.
  std::vector<std::pair<std::int64_t, std::int64_t>> expected_rows() const {
    std::vector<std::pair<std::int64_t, std::int64_t>> rows;  // token, expert
    const std::int64_t local = experts / group->size();
    for (std::int64_t e = local * group->rank(); e < local * (group->rank() + 1); ++e) {
      for (std::int64_t t = 0; t < all_tokens; ++t) {
        for (const std::int32_t chosen : choice(t)) {
          if (chosen == e) rows.emplace_back(t, e);
        }
      }
    }
    return rows;
  }

  std::unique_ptr<Communicator> group;
  TokenExchange exchange;
  Stream stream{Device::cpu()};
  Arena arena{{.device = Device::cpu(), .capacity = std::size_t{1} << 20, .poison = true}};
  Timeline timeline;
  ExecutionContext context{stream, arena, timeline};
  std::int64_t first = 0, tokens = 0, all_tokens = 0;
};

TEST_P(TokenExchangeTest, BringsEachExpertItsTokensInOrderAndTheirResultsBack) {
  const auto [ranks, route] = GetParam();
  run_ranks(ranks, [route](std::unique_ptr<Communicator> group) {
    Rank rank(std::move(group), route);
    TokenExchange::Plan plan;
    rank.plan_choices(plan);
    const auto expected = rank.expected_rows();
    ASSERT_EQ(plan.received, static_cast<std::int64_t>(expected.size()));
    ASSERT_EQ(plan.sent, rank.tokens * top_k);

    const Tensor x = rank.filled({rank.tokens, width}, [&](std::int64_t i) {
      return value(rank.first + i / width, i % width);
    });
    const Tensor slots = rank.filled({rank.tokens * top_k, 1}, [&](std::int64_t i) {
      return value(rank.first + i / top_k, 0) +
             0.25 * choice(rank.first + i / top_k)[static_cast<std::size_t>(i % top_k)];
    });
    const Tensor rows = rank.arena.allocate({plan.received, width}, DType::f64);
    const Tensor slot_values = rank.arena.allocate({plan.received, 1}, DType::f64);
    const TokenExchange::Dispatched dispatched[] = {{slots, 1, slot_values}, {x, top_k, rows}};
    auto sent = rank.exchange.start_dispatch(plan, dispatched, rank.context);
    rank.exchange.finish_dispatch(plan, sent, rank.context);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto [token, expert] = expected[i];
      EXPECT_EQ(slot_values.data<double>()[i],
                value(token, 0) + 0.25 * static_cast<double>(expert));
      for (std::int64_t c = 0; c < width; ++c) {
        EXPECT_EQ(rows.data<double>()[static_cast<std::int64_t>(i) * width + c], value(token, c));
      }
    }

    // The experts multiply by their number, and each slot's row comes back to its slot.
    const Tensor results = rank.exchange.allocate_rows(plan, width, DType::f64, rank.arena);
    const Tensor slot_results = rank.exchange.allocate_rows(plan, 1, DType::f64, rank.arena);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto [token, expert] = expected[i];
      for (std::int64_t c = 0; c < width; ++c) {
        results.data<double>()[static_cast<std::int64_t>(i) * width + c] =
            static_cast<double>(expert) * value(token, c);
      }
      slot_results.data<double>()[i] = static_cast<double>(expert);
    }
    const Tensor y = rank.filled({rank.tokens, width}, [](std::int64_t) { return 0.5; });
    const Tensor by_slot = rank.filled({rank.tokens * top_k, 1}, [](std::int64_t) { return -1.0; });
    auto small = rank.exchange.start_combine(plan, slot_results, rank.context);
    auto home = rank.exchange.start_combine(plan, results, rank.context);
    rank.exchange.finish_combine(small, plan.slot_rows.view({rank.tokens * top_k, 1}),
                                 Write::overwrite, by_slot, rank.context);
    rank.exchange.finish_combine(home, plan.slot_rows, Write::accumulate, y, rank.context);
    for (std::int64_t t = 0; t < rank.tokens; ++t) {
      const auto chosen = choice(rank.first + t);
      for (std::int64_t k = 0; k < top_k; ++k) {
        EXPECT_EQ(by_slot.data<double>()[t * top_k + k], chosen[static_cast<std::size_t>(k)]);
      }
      for (std::int64_t c = 0; c < width; ++c) {
        EXPECT_EQ(y.data<double>()[t * width + c],
                  0.5 + (chosen[0] + chosen[1]) * value(rank.first + t, c));
      }
    }
    rank.group->shutdown();
  });
}

INSTANTIATE_TEST_SUITE_P(RanksAndRoutes, TokenExchangeTest,
                         testing::Combine(testing::Values(1, 2, 4),
                                          testing::Values(TokenExchange::Route::by_backend,
                                                          TokenExchange::Route::pieces,
                                                          TokenExchange::Route::regrouped)));

}  // namespace
}  // namespace polymoe
