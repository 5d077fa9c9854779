// SPDX-License-Identifier: Apache-2.0
#include "parallel/parameters/parameter_store.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/communication/planning/planning_communicator.h"
#include "runtime/error.h"
#include "runtime/random.h"
#include "tests/parallel/parameters/toy_parameters.h"
#include "tests/support/run_ranks.h"
#include "tests/support/temporary_directory.h"

namespace polymoe {
namespace {

constexpr std::array scopes{ParameterScope::dense, ParameterScope::expert};

struct Layout {
  int ranks;
  int expert_parallel;
};
const std::vector<Layout> layouts{{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}};

/// Runs `body` with a toy store of f64 on every rank of a layout.
void with_store(Layout layout,
                const std::function<void(const ProcessMesh&, ParameterStore&)>& body) {
  run_ranks(layout.ranks, [&](std::unique_ptr<Communicator> world) {
    ProcessMesh mesh(std::move(world), layout.expert_parallel);
    ParameterStore store(mesh);
    test::declare_toy_parameters(store, mesh);
    store.allocate(DType::f64, Device::cpu());
    body(mesh, store);
    mesh.shutdown();
  });
}

TEST(ParameterStore, BucketsFollowEachOtherPaddedToTheGroup) {
  for (const Layout layout : layouts) {
    with_store(layout, [](const ProcessMesh&, ParameterStore& store) {
      ASSERT_EQ(store.segments(), test::toy_segments);
      for (const ParameterScope scope : scopes) {
        std::int64_t end = 0;
        for (int segment = 0; segment < store.segments(); ++segment) {
          const auto bucket = store.bucket(scope, segment);
          EXPECT_EQ(bucket.begin, end);
          EXPECT_EQ(bucket.size() % (16 * store.group(scope).size()), 0);
          end = bucket.end;
        }
        EXPECT_EQ(store.values(scope).elements(), end);
        EXPECT_EQ(store.gradients(scope).elements(), end);
      }
      EXPECT_EQ(store.bucket(ParameterScope::dense, 3).size(), 0);
      EXPECT_EQ(store.bucket(ParameterScope::expert, 0).size(), 0);
    });
  }
}

TEST(ParameterStore, ParametersLieInTheirBucketsWithoutOverlap) {
  with_store({4, 2}, [](const ProcessMesh&, ParameterStore& store) {
    for (const ParameterScope scope : scopes) {
      std::int64_t end = 0;
      for (const Parameter& parameter : store.parameters()) {
        if (parameter.scope != scope) continue;
        EXPECT_EQ(parameter.offset % 16, 0);
        EXPECT_GE(parameter.offset, end);
        end = parameter.offset + parameter.shape.elements();
        const auto bucket = store.bucket(scope, parameter.segment);
        EXPECT_GE(parameter.offset, bucket.begin);
        EXPECT_LE(end, bucket.end);
        EXPECT_EQ(parameter.value.shape(), parameter.shape);
        EXPECT_EQ(parameter.value.raw(), store.values(scope).data<double>() + parameter.offset);
        EXPECT_EQ(parameter.gradient.raw(),
                  store.gradients(scope).data<double>() + parameter.offset);
      }
    }
  });
}

TEST(ParameterStore, OwnedRangesCoverEveryElementOfTheModelOnce) {
  for (const Layout layout : layouts) {
    std::mutex mutex;
    std::map<std::string, std::vector<int>> owners;  // of each element of each logical tensor
    std::int64_t total = 0;
    with_store(layout, [&](const ProcessMesh&, ParameterStore& store) {
      const std::lock_guard lock(mutex);
      total = store.total_elements();
      for (const ParameterScope scope : scopes) {
        for (int segment = 0; segment < store.segments(); ++segment) {
          for (const LogicalRange& range :
               store.logical_ranges(scope, store.owned(scope, segment))) {
            auto& count = owners[range.tensor->name];
            count.resize(static_cast<std::size_t>(range.tensor->shape.elements()), 0);
            for (std::int64_t i = 0; i < range.count; ++i) {
              ++count[static_cast<std::size_t>(range.tensor_begin + i)];
            }
          }
        }
      }
    });
    std::size_t elements = 0;
    for (const auto& [name, count] : owners) {
      elements += count.size();
      for (const int times : count) EXPECT_EQ(times, 1) << name << " at " << layout.ranks;
    }
    // 50*7 + 7 + 33*9 + 4 + 1 + 7*50 dense, 8 * (15 + 2 + 15 + 6) in experts.
    EXPECT_EQ(elements, 1009u + 304u);
    EXPECT_EQ(total, 1009 + 304);
  }
}

TEST(ParameterStore, LogicalRangesPointAtTheElementsTheyName) {
  with_store({2, 2}, [](const ProcessMesh&, ParameterStore& store) {
    for (const ParameterScope scope : scopes) {
      // Cut at odd places: every piece still says where in its tensor it lies.
      const std::int64_t end = store.values(scope).elements();
      for (std::int64_t begin = 0; begin < end; begin += 13) {
        for (const LogicalRange& range :
             store.logical_ranges(scope, {begin, std::min(begin + 13, end)})) {
          EXPECT_GE(range.flat_begin, begin);
          EXPECT_LE(range.flat_begin + range.count, begin + 13);
          const auto which = range.tensor - range.parameter->logical.data();
          EXPECT_EQ(range.flat_begin - range.parameter->offset,
                    which * range.tensor->shape.elements() + range.tensor_begin);
        }
      }
    }
  });
}

/// All initial values by logical name.
std::map<std::string, std::vector<double>> initial_values(Layout layout, std::uint64_t seed) {
  std::mutex mutex;
  std::map<std::string, std::vector<double>> values;
  with_store(layout, [&](const ProcessMesh&, ParameterStore& store) {
    Stream stream(Device::cpu());
    store.initialize(seed, stream);
    const std::lock_guard lock(mutex);
    for (const ParameterScope scope : scopes) {
      const Tensor& flat = store.values(scope);
      for (const LogicalRange& range : store.logical_ranges(scope, {0, flat.elements()})) {
        const double* first = flat.data<double>() + range.flat_begin;
        const std::vector<double> found(first, first + range.count);
        const auto [entry, is_new] = values.emplace(range.tensor->name, found);
        EXPECT_TRUE(is_new || entry->second == found) << range.tensor->name;
      }
    }
  });
  return values;
}

TEST(ParameterStore, InitialValuesAreTheSameUnderAnyLayout) {
  const auto reference = initial_values({1, 1}, 7);
  EXPECT_EQ(reference.size(), 6u + 4u * test::toy_experts);
  for (const Layout layout : layouts) EXPECT_EQ(initial_values(layout, 7), reference);
  EXPECT_NE(initial_values({1, 1}, 8), reference);
}

TEST(ParameterStore, InitialValuesFollowTheInitializer) {
  const auto values = initial_values({1, 1}, 7);
  EXPECT_EQ(values.at("norm"), std::vector<double>(7, 1.0));
  EXPECT_EQ(values.at("coefficients"), (std::vector<double>{0.0, 0.25, 0.5, 0.0}));
  EXPECT_EQ(values.at("experts.5.slope"), (std::vector<double>{0.0, 0.25}));
  const RandomStream random(7, "experts.3.up");
  for (std::size_t i = 0; i < 15; ++i) {
    EXPECT_EQ(values.at("experts.3.up")[i], 0.02 * random.normal(i));
  }
  double largest = 0.0;
  for (const double value : values.at("query")) largest = std::max(largest, std::abs(value));
  EXPECT_LE(largest, 0.5 * 1.5);
  EXPECT_GT(largest, 0.5 * 1.3);  // 297 draws come close to the bound
}

TEST(ParameterStore, ZeroGradientsClearsAll) {
  with_store({2, 1}, [](const ProcessMesh&, ParameterStore& store) {
    for (const ParameterScope scope : scopes) {
      const Tensor& flat = store.gradients(scope);
      std::fill_n(flat.data<double>(), flat.elements(), std::nan(""));
    }
    Stream stream(Device::cpu());
    store.zero_gradients(stream);
    for (const ParameterScope scope : scopes) {
      const Tensor& flat = store.gradients(scope);
      for (std::int64_t i = 0; i < flat.elements(); ++i) ASSERT_EQ(flat.data<double>()[i], 0.0);
    }
  });
}

TEST(ParameterStore, GradientsMayBeAsNarrowAsTheValues) {
  with_store({2, 1}, [&](const ProcessMesh& mesh, ParameterStore&) {
    ParameterStore store(mesh);
    test::declare_toy_parameters(store, mesh);
    EXPECT_EQ(test::message_of<InvalidArgument>(
                  [&] { store.allocate(DType::f32, Device::cpu(), DType::bf16); }),
              "gradients of dtype bf16 beside parameters of f32: f32 is allowed");
    EXPECT_EQ(test::message_of<InvalidArgument>(
                  [&] { store.allocate(DType::bf16, Device::cpu(), DType::f64); }),
              "gradients of dtype f64 beside parameters of bf16: f32 and bf16 are allowed");
    store.allocate(DType::bf16, Device::cpu(), DType::bf16);
    int wide = 0;
    for (const Parameter& parameter : store.parameters()) {
      EXPECT_EQ(parameter.gradient.dtype(), parameter.wide ? DType::f32 : DType::bf16);
      EXPECT_EQ(parameter.gradient.dtype(), parameter.value.dtype());
      wide += parameter.wide ? 1 : 0;
    }
    EXPECT_GT(wide, 0);
  });
}

TEST(ParameterStore, RefusesWhatDoesNotFit) {
  const auto parameter = [](std::vector<LogicalTensor> logical, const Shape& shape) {
    return Parameter{.logical = std::move(logical),
                     .shape = shape,
                     .initializer = {},
                     .value = {},
                     .gradient = {}};
  };
  with_store({1, 1}, [&](const ProcessMesh& mesh, ParameterStore& allocated) {
    EXPECT_THROW(allocated.declare(parameter({{"more", {2}}}, {2})), InvalidArgument);
    EXPECT_THROW(allocated.allocate(DType::f32, Device::cpu()), InvalidArgument);
    ParameterStore store(mesh);
    EXPECT_THROW(store.declare(parameter({{"w", {2}}}, {2})), InvalidArgument);  // no segment
    store.begin_segment();
    store.declare(parameter({{"w", {2}}}, {2}));
    EXPECT_THROW(store.declare(parameter({{"w", {2}}}, {2})), InvalidArgument);
    EXPECT_THROW(store.declare(parameter({}, {2})), InvalidArgument);
    EXPECT_THROW(store.declare(parameter({{"a", {2}}, {"b", {3}}}, {5})), InvalidArgument);
    EXPECT_THROW(store.declare(parameter({{"c", {2}}, {"d", {2}}}, {2, 3})), InvalidArgument);
    EXPECT_THROW(store.allocate(DType::i32, Device::cpu()), InvalidArgument);
    try {
      store.declare(parameter({{"w", {2}}}, {2}));
    } catch (const InvalidArgument& error) {
      EXPECT_STREQ(error.what(), "parameter w is declared twice");
    }
  });
}

TEST(PlanningCommunicator, StandsInForAnyRankOfAnyLayout) {
  for (const Layout layout : layouts) {
    with_store(layout, [&](const ProcessMesh& mesh, ParameterStore& store) {
      const int rank = mesh.world().rank();
      ProcessMesh planned(make_planning_world(rank, layout.ranks, layout.expert_parallel),
                          layout.expert_parallel);
      EXPECT_EQ(planned.world().rank(), rank);
      EXPECT_EQ(planned.world().size(), layout.ranks);
      EXPECT_EQ(planned.expert().rank(), mesh.expert().rank());
      EXPECT_EQ(planned.expert().size(), mesh.expert().size());
      EXPECT_EQ(planned.expert_replicas().rank(), mesh.expert_replicas().rank());
      EXPECT_EQ(planned.expert_replicas().size(), mesh.expert_replicas().size());
      ParameterStore plan(planned);
      test::declare_toy_parameters(plan, planned);
      plan.allocate(DType::f64, Device::meta());
      Stream nowhere(Device::meta());
      plan.initialize(1, nowhere);
      plan.zero_gradients(nowhere);
      EXPECT_EQ(plan.total_elements(), store.total_elements());
      for (const ParameterScope scope : scopes) {
        EXPECT_EQ(plan.values(scope).bytes(), store.values(scope).bytes());
        EXPECT_EQ(plan.values(scope).raw(), nullptr);
        EXPECT_EQ(plan.owned(scope, 1).begin, store.owned(scope, 1).begin);
      }
    });
  }
}

TEST(PlanningCommunicator, AnswersCountsWithWhatWasSent) {
  const auto world = make_planning_world(1, 2, 1);
  const std::vector<std::int64_t> send{3, 5};
  std::vector<std::int64_t> receive(2, -1);
  world->all_to_all_counts(send, receive);
  EXPECT_EQ(receive, send);
  EXPECT_THROW(world->split(7), InvalidArgument);
  EXPECT_THROW(make_planning_world(2, 2, 1), InvalidArgument);
  EXPECT_THROW(make_planning_world(0, 4, 3), InvalidArgument);
}

TEST(ProcessMesh, RefusesAnExpertParallelSizeThatDoesNotDivide) {
  for (const int expert_parallel : {0, -2, 2, 4}) {
    try {
      run_ranks(3, [&](std::unique_ptr<Communicator> world) {
        const ProcessMesh mesh(std::move(world), expert_parallel);
      });
      ADD_FAILURE() << "3 ranks took an expert-parallel size of " << expert_parallel;
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(std::string(error.what()), "parallel.expert = " + std::to_string(expert_parallel) +
                                               " does not divide the number of ranks, 3");
    }
  }
}

}  // namespace
}  // namespace polymoe
