// SPDX-License-Identifier: Apache-2.0
// Every device's dispatch plan and row moves against the CPU's.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/dispatch_plan/dispatch_plan.h"
#include "runtime/random.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::converted;
using test::random_tensor;
using test::tensor_of;

struct Plan {
  OwnedTensor counts, row_slots, slot_rows;
};

class DispatchPlanDevices : public test::OnDevice {
 protected:
  Plan host_plan(const Tensor& ids, const Tensor& weights, const ExpertCapacity& capacity,
                 std::int64_t experts) {
    Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true});
    Stream host(Device::cpu());
    Plan plan{test::poisoned_tensor({experts}, DType::i64),
              test::poisoned_tensor({ids.elements()}, DType::i32),
              test::poisoned_tensor(ids.shape(), DType::i32)};
    dispatch_plan(ids, weights, capacity, *plan.counts, *plan.row_slots, *plan.slot_rows, scratch,
                  host);
    return plan;
  }

  void expect_plan(const std::vector<double>& ids, const std::vector<double>& weights,
                   std::int64_t top_k, std::int64_t experts, const ExpertCapacity& capacity) {
    const Shape shape{static_cast<std::int64_t>(ids.size()) / top_k, top_k};
    const OwnedTensor id = tensor_of(shape, DType::i32, ids);
    const OwnedTensor weight = tensor_of(shape, DType::f32, weights);
    const Plan expected = host_plan(*id, *weight, capacity, experts);
    const OwnedTensor device_id = moved(*id), device_weight = moved(*weight);
    const OwnedTensor counts = poisoned({experts}, DType::i64);
    const OwnedTensor row_slots = poisoned({id->elements()}, DType::i32);
    const OwnedTensor slot_rows = poisoned(shape, DType::i32);
    dispatch_plan(*device_id, *device_weight, capacity, *counts, *row_slots, *slot_rows, arena(),
                  stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(*counts), *expected.counts));
    EXPECT_TRUE(test::bitwise_equal(*fetched(*row_slots), *expected.row_slots));
    EXPECT_TRUE(test::bitwise_equal(*fetched(*slot_rows), *expected.slot_rows));
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, DispatchPlanDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(DispatchPlanDevices, EqualsTheCpuWithAndWithoutCapacity) {
  const std::int64_t tokens = 4096, top_k = 4, experts = 37;
  const RandomStream random(11, "routing");
  std::vector<double> ids, weights;
  for (std::uint64_t s = 0; s < static_cast<std::uint64_t>(tokens * top_k); ++s) {
    // Lower experts more often, the last never; few different weights, so that many are equal.
    const double u = random.uniform(2 * s);
    ids.push_back(std::floor(u * u * static_cast<double>(experts - 1)));
    weights.push_back(static_cast<double>(random.bits(2 * s + 1) % 7) / 8.0 - 0.25);
  }
  weights[5] = std::numeric_limits<double>::quiet_NaN();
  weights[77] = -0.0;
  expect_plan(ids, weights, top_k, experts, {});
  for (const DropPolicy policy : {DropPolicy::position, DropPolicy::probability}) {
    for (const std::int64_t segment : {4096, 512, 1}) {
      for (const std::int64_t slots : {1, 30, 100000}) {
        SCOPED_TRACE(std::to_string(segment) + " " + std::to_string(slots));
        expect_plan(ids, weights, top_k, experts, {slots, segment, policy});
      }
    }
  }
}

TEST_P(DispatchPlanDevices, NoTokensAndOneExpert) {
  expect_plan({}, {}, 2, 5, {});
  expect_plan({}, {}, 2, 5, {3, 0, DropPolicy::probability});
  expect_plan(std::vector<double>(1000, 0.0), std::vector<double>(1000, 0.5), 1, 1, {});
}

// Ids of 40 experts and none, of which a rank has those from 12 on.
TEST_P(DispatchPlanDevices, GroupsOfARangeEqualTheCpus) {
  Stream host(Device::cpu());
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true});
  const RandomStream random(3, "ids");
  for (const std::int64_t tokens : {0, 1, 5000}) {
    const std::int64_t slots = tokens * 4, groups = 17;
    std::vector<double> values;
    for (std::uint64_t s = 0; s < static_cast<std::uint64_t>(slots); ++s) {
      values.push_back(static_cast<double>(random.bits(s) % 41) - 1.0);
    }
    const OwnedTensor ids = tensor_of({tokens, 4}, DType::i32, values), device_ids = moved(*ids);
    Plan expected{test::poisoned_tensor({groups}, DType::i64),
                  test::poisoned_tensor({slots}, DType::i32),
                  test::poisoned_tensor({tokens, 4}, DType::i32)};
    group_slots(*ids, 12, *expected.counts, *expected.row_slots, *expected.slot_rows, scratch,
                host);
    const OwnedTensor counts = poisoned({groups}, DType::i64);
    const OwnedTensor row_slots = poisoned({slots}, DType::i32);
    const OwnedTensor slot_rows = poisoned({tokens, 4}, DType::i32);
    group_slots(*device_ids, 12, *counts, *row_slots, *slot_rows, arena(), stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(*counts), *expected.counts)) << tokens;
    EXPECT_TRUE(test::bitwise_equal(*fetched(*row_slots), *expected.row_slots)) << tokens;
    EXPECT_TRUE(test::bitwise_equal(*fetched(*slot_rows), *expected.slot_rows)) << tokens;
  }
}

TEST_P(DispatchPlanDevices, GatherAndSumEqualTheCpuInF64) {
  Stream host(Device::cpu());
  const std::int64_t tokens = 200, top_k = 3, rows = 500;
  const RandomStream random(5, "slots");
  std::vector<double> indices, slots;
  for (std::uint64_t i = 0; i < 600; ++i) {
    indices.push_back(static_cast<double>(random.bits(i) % 600));
    slots.push_back(static_cast<double>(random.bits(i + 600) % 520) < 20
                        ? -1.0
                        : static_cast<double>(random.bits(i + 600) % 500));
  }
  slots[0] = slots[1] = slots[2] = -1.0;  // a token without rows
  const OwnedTensor index = tensor_of({600}, DType::i32, indices), device_index = moved(*index);
  const OwnedTensor slot = tensor_of({tokens, top_k}, DType::i32, slots);
  const OwnedTensor device_slot = moved(*slot);
  // Where rows are scattered to, each named once, in a tensor of 620; every seventh is dropped.
  std::vector<double> place;
  for (std::int64_t s = 0; s < tokens * top_k; ++s)
    place.push_back(s % 7 == 3 ? -1.0 : static_cast<double>(s * 7 % 600 + 20));
  const OwnedTensor places = tensor_of({tokens, top_k}, DType::i32, place);
  const OwnedTensor device_places = moved(*places);
  for (const std::int64_t width : {1, 37, 64, 1536}) {
    SCOPED_TRACE(width);
    const OwnedTensor x = converted(*random_tensor({tokens, width}, DType::f64, "x"), dtype());
    const OwnedTensor gathered = test::poisoned_tensor({600, width}, DType::f64);
    gather_rows(*converted(*x, DType::f64), *index, 3, *gathered, host);
    const OwnedTensor device_gathered = poisoned({600, width}, dtype());
    gather_rows(*moved(*x), *device_index, 3, *device_gathered, stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(*device_gathered), *gathered));
    // The same rows in two tensors.
    const OwnedTensor of_two = poisoned({600, width}, dtype());
    const OwnedTensor first = moved(x->rows(0, 70)), second = moved(x->rows(70, tokens));
    gather_rows(*first, *second, *device_index, 3, *of_two, stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(*of_two), *gathered));

    const OwnedTensor scattered = converted(*random_tensor({620, width}, DType::f64, "s"), dtype());
    const OwnedTensor device_scattered = moved(*scattered);
    const OwnedTensor expected_scattered = converted(*scattered, DType::f64);
    scatter_rows(*converted(*x, DType::f64), *places, *expected_scattered, host);
    scatter_rows(*moved(*x), *device_places, *device_scattered, stream());
    EXPECT_TRUE(test::bitwise_equal(*fetched(*device_scattered), *expected_scattered));

    const OwnedTensor r = converted(*random_tensor({rows, width}, DType::f64, "r"), dtype());
    const OwnedTensor device_rows = moved(*r);
    for (const Write write : {Write::overwrite, Write::accumulate}) {
      const OwnedTensor before =
          converted(*random_tensor({tokens, width}, DType::f64, "y"), dtype());
      const OwnedTensor expected = converted(*before, DType::f64);
      sum_rows(*converted(*r, DType::f64), *slot, write, *expected, host);
      const OwnedTensor y =
          write == Write::accumulate ? moved(*before) : poisoned({tokens, width}, dtype());
      sum_rows(*device_rows, *device_slot, write, *y, stream());
      EXPECT_LE(test::relative_error(*fetched(*y), *expected), test::norm_tolerance(dtype()));
    }
  }
}

}  // namespace
}  // namespace polymoe
