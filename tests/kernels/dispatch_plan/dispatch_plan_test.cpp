// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch_plan/dispatch_plan.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/random.h"
#include "support/compare.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::all_close;
using test::poisoned_tensor;
using test::random_tensor;
using test::tensor_of;
using test::values_of;

struct Plan {
  std::vector<double> counts, row_slots, slot_rows;
};

Plan plan_of(const Tensor& ids, const Tensor& weights, const ExpertCapacity& capacity,
             std::int64_t experts) {
  Arena arena({.device = Device::cpu(), .capacity = std::size_t{1} << 24, .poison = true});
  Stream stream(Device::cpu());
  const OwnedTensor counts = poisoned_tensor({experts}, DType::i64);
  const OwnedTensor row_slots = poisoned_tensor({ids.elements()}, DType::i32);
  const OwnedTensor slot_rows = poisoned_tensor(ids.shape(), DType::i32);
  dispatch_plan(ids, weights, capacity, *counts, *row_slots, *slot_rows, arena, stream);
  EXPECT_EQ(arena.mark(), 0u);
  return {values_of(*counts), values_of(*row_slots), values_of(*slot_rows)};
}

// The definition: which slots stay, then a stable sort by expert.
Plan expected_plan(const std::vector<double>& ids, const std::vector<double>& weights,
                   const ExpertCapacity& capacity, std::int64_t top_k, std::int64_t experts) {
  const std::size_t slots = ids.size();
  std::vector<bool> kept(slots, true);
  if (capacity.slots > 0) {
    const auto segment = static_cast<std::size_t>(capacity.segment_tokens * top_k);
    for (std::size_t s = 0; s < slots; ++s) {
      std::int64_t ahead = 0;
      for (std::size_t other = s / segment * segment; other < (s / segment + 1) * segment;
           ++other) {
        if (ids[other] != ids[s] || other == s) continue;
        const bool first = capacity.policy == DropPolicy::position || weights[other] == weights[s]
                               ? other < s
                               : weights[other] > weights[s];
        ahead += first;
      }
      kept[s] = ahead < capacity.slots;
    }
  }
  Plan plan{std::vector<double>(static_cast<std::size_t>(experts), 0.0),
            {},
            std::vector<double>(slots, -1.0)};
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::size_t s = 0; s < slots; ++s) {
      if (!kept[s] || ids[s] != static_cast<double>(e)) continue;
      plan.counts[static_cast<std::size_t>(e)] += 1.0;
      plan.slot_rows[s] = static_cast<double>(plan.row_slots.size());
      plan.row_slots.push_back(static_cast<double>(s));
    }
  }
  plan.row_slots.resize(slots, -1.0);
  return plan;
}

void expect_equal(const Plan& actual, const Plan& expected, const std::string& what) {
  EXPECT_EQ(actual.counts, expected.counts) << what;
  EXPECT_EQ(actual.row_slots, expected.row_slots) << what;
  EXPECT_EQ(actual.slot_rows, expected.slot_rows) << what;
}

// top_k different experts per token, some experts more popular, the last one never chosen.
std::vector<double> random_ids(std::int64_t tokens, std::int64_t top_k, std::int64_t experts) {
  const RandomStream random(11, "ids");
  std::vector<double> ids;
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<std::pair<double, std::int64_t>> order;
    for (std::int64_t e = 0; e + 1 < experts; ++e) {
      const auto index = static_cast<std::uint64_t>(t * experts + e);
      order.emplace_back(random.uniform(index) * static_cast<double>(1 + e % 4), e);
    }
    std::sort(order.rbegin(), order.rend());
    for (std::int64_t j = 0; j < top_k; ++j) {
      ids.push_back(static_cast<double>(order[static_cast<std::size_t>(j)].second));
    }
  }
  return ids;
}

class DispatchPlanDTypes : public ::testing::TestWithParam<DType> {};

TEST_P(DispatchPlanDTypes, IsTheDefinition) {
  const std::int64_t tokens = 60, top_k = 3, experts = 9;
  const std::vector<double> ids = random_ids(tokens, top_k, experts);
  const OwnedTensor id_tensor = tensor_of({tokens, top_k}, DType::i32, ids);
  // Few different weights, so that many are equal.
  std::vector<double> weights(ids.size());
  const RandomStream random(3, "weights");
  for (std::size_t s = 0; s < weights.size(); ++s) {
    weights[s] = static_cast<double>(1 + random.bits(s) % 4) / 8;
  }
  const OwnedTensor weight_tensor = tensor_of({tokens, top_k}, GetParam(), weights);
  expect_equal(plan_of(*id_tensor, Tensor{}, {}, experts),
               expected_plan(ids, weights, {}, top_k, experts), "dropless");
  for (const DropPolicy policy : {DropPolicy::position, DropPolicy::probability}) {
    for (const std::int64_t segment : {60, 20, 1}) {
      for (const std::int64_t slots : {1, 2, 5, 100}) {
        const ExpertCapacity capacity{slots, segment, policy};
        expect_equal(plan_of(*id_tensor, *weight_tensor, capacity, experts),
                     expected_plan(ids, weights, capacity, top_k, experts),
                     std::to_string(segment) + " " + std::to_string(slots));
      }
    }
  }
}

TEST_P(DispatchPlanDTypes, GatherTakesTheTokensOfTheSlots) {
  const DType dtype = GetParam();
  Stream stream(Device::cpu());
  const OwnedTensor x = random_tensor({5, 37}, dtype, "x");
  const OwnedTensor slots = tensor_of({6}, DType::i32, {9, 0, 3, 1, 8, 8});
  const OwnedTensor out = poisoned_tensor({6, 37}, dtype);
  gather_rows(*x, *slots, 2, *out, stream);
  for (std::int64_t r = 0; r < 6; ++r) {
    const std::int64_t token = slots->data<std::int32_t>()[r] / 2;
    EXPECT_TRUE(test::bitwise_equal(out->rows(r, r + 1), x->rows(token, token + 1)));
  }
  const OwnedTensor line = random_tensor({10}, dtype, "line");
  const OwnedTensor picked = poisoned_tensor({6}, dtype);
  gather_rows(*line, *slots, 1, *picked, stream);
  for (std::int64_t r = 0; r < 6; ++r) {
    EXPECT_EQ(values_of(*picked)[static_cast<std::size_t>(r)],
              values_of(*line)[static_cast<std::size_t>(slots->data<std::int32_t>()[r])]);
  }
}

TEST_P(DispatchPlanDTypes, SumAddsTheKeptRowsInOrder) {
  const DType dtype = GetParam();
  Stream stream(Device::cpu());
  for (const std::int64_t k : {1, 2, 3, 8, 11}) {
    const std::int64_t tokens = 9, width = 53, rows = tokens * k;
    const OwnedTensor x = random_tensor({rows, width}, dtype, "rows");
    std::vector<double> slot_rows(static_cast<std::size_t>(rows));
    for (std::size_t s = 0; s < slot_rows.size(); ++s) {
      // Any order; every third dropped, and all slots of token 4.
      const bool dropped = s % 3 == 1 || static_cast<std::int64_t>(s) / k == 4;
      slot_rows[s] = dropped ? -1.0 : static_cast<double>(slot_rows.size() - 1 - s);
    }
    const OwnedTensor plan = tensor_of({tokens, k}, DType::i32, slot_rows);
    for (const Write write : {Write::overwrite, Write::accumulate}) {
      const bool add = write == Write::accumulate;
      const OwnedTensor y = add ? random_tensor({tokens, width}, dtype, "y")
                                : poisoned_tensor({tokens, width}, dtype);
      std::vector<double> expected = add ? values_of(*y) : std::vector<double>(tokens * width, 0.0);
      for (std::int64_t s = 0; s < rows; ++s) {
        const double row = slot_rows[static_cast<std::size_t>(s)];
        if (row < 0) continue;
        const auto r = static_cast<std::int64_t>(row);
        const std::vector<double> values = values_of(x->rows(r, r + 1));
        for (std::int64_t c = 0; c < width; ++c) {
          expected[static_cast<std::size_t>(s / k * width + c)] +=
              values[static_cast<std::size_t>(c)];
        }
      }
      sum_rows(*x, *plan, write, *y, stream);
      EXPECT_TRUE(all_close(values_of(*y), expected, test::tolerance_of(dtype)));
    }
  }
}

// Each is the transpose of the other, so either serves as the other's backward pass.
TEST_P(DispatchPlanDTypes, GatherAndSumAreTransposed) {
  const std::int64_t tokens = 40, top_k = 3, experts = 9, width = 21;
  const OwnedTensor ids =
      tensor_of({tokens, top_k}, DType::i32, random_ids(tokens, top_k, experts));
  const Plan plan = plan_of(*ids, Tensor{}, {4, 20, DropPolicy::position}, experts);
  const auto kept =
      static_cast<std::int64_t>(std::accumulate(plan.counts.begin(), plan.counts.end(), 0.0));
  ASSERT_LT(kept, tokens * top_k);
  const OwnedTensor row_slots = tensor_of({tokens * top_k}, DType::i32, plan.row_slots);
  const OwnedTensor slot_rows = tensor_of({tokens, top_k}, DType::i32, plan.slot_rows);
  Stream stream(Device::cpu());
  const OwnedTensor x = random_tensor({tokens, width}, DType::f64, "x");
  const OwnedTensor g = random_tensor({kept, width}, DType::f64, "g");
  const OwnedTensor gathered = poisoned_tensor({kept, width}, DType::f64);
  const OwnedTensor summed = poisoned_tensor({tokens, width}, DType::f64);
  gather_rows(*x, row_slots->rows(0, kept), top_k, *gathered, stream);
  const OwnedTensor scattered = poisoned_tensor({kept, width}, DType::f64);
  scatter_rows(*x, *slot_rows, *scattered, stream);
  EXPECT_TRUE(test::bitwise_equal(*scattered, *gathered));
  sum_rows(*g, *slot_rows, Write::overwrite, *summed, stream);
  const double forward = test::inner_product(*gathered, *g);
  EXPECT_NEAR(forward, test::inner_product(*x, *summed), 1e-12 * std::abs(forward));
}

TEST_P(DispatchPlanDTypes, NoTokens) {
  const OwnedTensor ids({0, 3}, DType::i32, Device::cpu());
  const OwnedTensor weights({0, 3}, GetParam(), Device::cpu());
  for (const ExpertCapacity capacity :
       {ExpertCapacity{}, ExpertCapacity{2, 8, DropPolicy::probability}}) {
    const Plan plan = plan_of(*ids, *weights, capacity, 4);
    EXPECT_EQ(plan.counts, (std::vector<double>(4, 0.0)));
    EXPECT_TRUE(plan.row_slots.empty());
  }
  Stream stream(Device::cpu());
  const OwnedTensor rows({0, 6}, GetParam(), Device::cpu());
  const OwnedTensor none({0}, DType::i32, Device::cpu());
  EXPECT_NO_THROW(gather_rows(*rows, *none, 3, *rows, stream));
  EXPECT_NO_THROW(scatter_rows(*rows, *ids, *rows, stream));
  EXPECT_NO_THROW(sum_rows(*rows, *ids, Write::overwrite, *rows, stream));
  // Tokens of which every slot was dropped.
  const OwnedTensor dropped = tensor_of({2, 1}, DType::i32, {-1, -1});
  const OwnedTensor y = poisoned_tensor({2, 6}, GetParam());
  sum_rows(*rows, *dropped, Write::overwrite, *y, stream);
  EXPECT_EQ(values_of(*y), std::vector<double>(12, 0.0));
}

INSTANTIATE_TEST_SUITE_P(All, DispatchPlanDTypes, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return std::string(name_of(test.param)); });

// Groups 3 to 5 of ids -1 to 7: the others belong to none.
TEST(DispatchPlan, GroupsOfARangeLeaveOtherIdsOut) {
  Arena arena({.device = Device::cpu(), .capacity = std::size_t{1} << 20, .poison = true});
  Stream stream(Device::cpu());
  const OwnedTensor ids = tensor_of({4, 2}, DType::i32, {5, 3, -1, 3, 7, 2, 3, 5});
  const OwnedTensor counts = poisoned_tensor({3}, DType::i64);
  const OwnedTensor row_slots = poisoned_tensor({8}, DType::i32);
  const OwnedTensor slot_rows = poisoned_tensor({4, 2}, DType::i32);
  group_slots(*ids, 3, *counts, *row_slots, *slot_rows, arena, stream);
  EXPECT_EQ(values_of(*counts), (std::vector<double>{3, 0, 2}));
  EXPECT_EQ(values_of(*row_slots), (std::vector<double>{1, 3, 6, 0, 7, -1, -1, -1}));
  EXPECT_EQ(values_of(*slot_rows), (std::vector<double>{3, 0, -1, 1, -1, -1, 2, 4}));
}

TEST(DispatchPlan, GatherCountsTheRowsOfASecondTensorOn) {
  Stream stream(Device::cpu());
  const OwnedTensor x = tensor_of({2, 2}, DType::f32, {0, 1, 10, 11});
  const OwnedTensor more = tensor_of({1, 2}, DType::f32, {20, 21});
  const OwnedTensor index = tensor_of({4}, DType::i32, {5, 0, 2, 4});
  const OwnedTensor out = poisoned_tensor({4, 2}, DType::f32);
  gather_rows(*x, *more, *index, 2, *out, stream);
  EXPECT_EQ(values_of(*out), (std::vector<double>{20, 21, 0, 1, 10, 11, 20, 21}));
}

TEST_P(DispatchPlanDTypes, ScatterWritesATokenToEachOfItsRowsAndLeavesOthersAlone) {
  Stream stream(Device::cpu());
  const OwnedTensor x = tensor_of({3, 2}, GetParam(), {0, 1, 10, 11, 20, 21});
  const OwnedTensor slot_rows = tensor_of({3, 2}, DType::i32, {4, 0, -1, -1, -1, 2});
  const OwnedTensor out = tensor_of({5, 2}, GetParam(), std::vector<double>(10, -5.0));
  scatter_rows(*x, *slot_rows, *out, stream);
  EXPECT_EQ(values_of(*out), (std::vector<double>{0, 1, -5, -5, 20, 21, -5, -5, 0, 1}));
}

TEST(DispatchPlan, DoesNotDependOnTheNumberOfThreads) {
  const std::int64_t tokens = 60, top_k = 3, experts = 9;
  const OwnedTensor ids =
      tensor_of({tokens, top_k}, DType::i32, random_ids(tokens, top_k, experts));
  const ExpertCapacity capacity{3, 12, DropPolicy::position};
  const int threads = omp_get_max_threads();
  const Plan plan = plan_of(*ids, Tensor{}, capacity, experts);
  for (const int used : {1, 3, 7}) {
    omp_set_num_threads(used);
    expect_equal(plan_of(*ids, Tensor{}, capacity, experts), plan, std::to_string(used));
  }
  omp_set_num_threads(threads);
}

TEST(DispatchPlan, RefusesWhatDoesNotFit) {
  const OwnedTensor ids({6, 2}, DType::i32, Device::cpu());
  try {
    plan_of(*ids, Tensor{}, {3, 4, DropPolicy::position}, 2);
    FAIL() << "accepted segments of 4 tokens for 6";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "dispatch_plan: segments of 4 tokens do not divide 6 tokens");
  }
  EXPECT_THROW(plan_of(*ids, Tensor{}, {3, 6, DropPolicy::probability}, 2), InvalidArgument);
  Stream stream(Device::cpu());
  const OwnedTensor bytes({4, 4}, DType::u8, Device::cpu());
  const OwnedTensor index({4}, DType::i32, Device::cpu());
  EXPECT_THROW(gather_rows(*bytes, *index, 1, *bytes, stream), InvalidArgument);
  const OwnedTensor x({4, 4}, DType::f32, Device::cpu());
  const OwnedTensor narrow({4, 3}, DType::f32, Device::cpu());
  EXPECT_THROW(gather_rows(*x, *index, 1, *narrow, stream), InvalidArgument);
  try {
    gather_rows(*x, *index, *index, 1, *x, stream);
    FAIL() << "accepted numbers behind rows";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "gather_rows: more has shape [4] behind x of shape [4, 4]");
  }
  const OwnedTensor slot_rows({4, 1}, DType::i32, Device::cpu());
  EXPECT_THROW(scatter_rows(*x, *slot_rows, *narrow, stream), InvalidArgument);
  EXPECT_THROW(scatter_rows(x->rows(0, 3), *slot_rows, *x, stream), InvalidArgument);
}

TEST(DispatchPlanOnMeta, CountsTheMemoryOfTheRealOne) {
  std::size_t high_water[2];
  for (const Device device : {Device::cpu(), Device::meta()}) {
    Arena arena({.device = device, .capacity = std::size_t{1} << 24, .poison = false});
    Stream stream(device);
    const OwnedTensor ids({64, 2}, DType::i32, device), slot_rows({64, 2}, DType::i32, device);
    const OwnedTensor weights({64, 2}, DType::f32, device);
    const OwnedTensor row_slots({128}, DType::i32, device), counts({8}, DType::i64, device);
    dispatch_plan(*ids, *weights, {4, 16, DropPolicy::probability}, *counts, *row_slots, *slot_rows,
                  arena, stream);
    high_water[device == Device::meta()] = arena.high_water();
  }
  EXPECT_EQ(high_water[0], high_water[1]);
}

}  // namespace
}  // namespace polymoe
