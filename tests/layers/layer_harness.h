// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>

#include "parallel/communication/local/local_communicator.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/context.h"
#include "runtime/execution.h"
#include "support/compare.h"
#include "support/fixture.h"
#include "support/gradient_check.h"
#include "support/hashed_values.h"
#include "support/random_tensor.h"

namespace polymoe::test {

/// One rank with a parameter store, a poisoned arena, and the values of tests/reference/layers.py.
class LayerHarness {
 public:
  static constexpr std::int64_t sequences = 2, length = 5, hidden = 8, width = 6, vocab = 11;
  static constexpr std::int64_t rows = sequences * length;

  explicit LayerHarness(DType dtype, std::string fixture_prefix)
      : dtype_(dtype),
        prefix_(std::move(fixture_prefix)),
        mesh_(std::move(make_local_communicators(1).front()), 1),
        store(mesh_),
        execution_({.device = Device::cpu(), .capacity = std::size_t{64} << 20, .poison = true}),
        fixture("layers.txt") {
    store.begin_segment();
  }

  /// Call when all layers are made: gives every parameter its value.
  void allocate() {
    store.allocate(dtype_, Device::cpu());
    for (const Parameter& parameter : store.parameters()) {
      const LogicalTensor& tensor = parameter.logical.front();
      fill_hashed(tensor.name, parameter_distribution(tensor.name, tensor.shape), parameter.value);
    }
  }

  DType dtype() const { return dtype_; }
  double tolerance() const { return dtype_ == DType::f64 ? 1e-12 : 1e-5; }
  OwnedTensor input(const std::string& name, const Shape& shape = {rows, hidden}) const {
    return hashed_tensor(shape, dtype_, prefix_ + "." + name);
  }
  /// Poisoned memory of the arena.
  Tensor fresh(const Shape& shape = {rows, hidden}) {
    return context.arena.allocate(shape, dtype_);
  }

  void expect_equal(const std::string& name, const Tensor& actual) const {
    const OwnedTensor expected = fixture.tensor(prefix_ + "." + name, dtype_);
    EXPECT_EQ(actual.shape(), expected->shape()) << name;
    EXPECT_LT(relative_error(actual, *expected), tolerance()) << prefix_ << "." << name;
  }
  void expect_parameter_gradients() const {
    for (const Parameter& parameter : store.parameters()) {
      expect_equal("d_" + parameter.logical.front().name, parameter.gradient);
    }
  }
  /// In f64: every parameter's gradient against central differences of `loss`.
  void expect_differences(const std::function<double()>& loss) {
    if (dtype_ != DType::f64) return;
    for (const Parameter& parameter : store.parameters()) {
      EXPECT_TRUE(gradient_matches(parameter.logical.front().name, parameter.value,
                                   parameter.gradient, loss, {.samples = 10}));
    }
  }

 private:
  DType dtype_;
  std::string prefix_;
  ProcessMesh mesh_;

 public:
  ParameterStore store;

 private:
  Execution execution_;

 public:
  ExecutionContext& context = execution_.context();
  Fixture fixture;
};

class EveryDType : public ::testing::TestWithParam<DType> {};
inline std::string dtype_name(const ::testing::TestParamInfo<DType>& info) {
  return name_of(info.param);
}

}  // namespace polymoe::test

/// Runs the TEST_P bodies of `suite`, derived from EveryDType, in f32 and f64.
#define POLYMOE_EVERY_DTYPE(suite)                                                      \
  INSTANTIATE_TEST_SUITE_P(DTypes, suite,                                               \
                           ::testing::Values(polymoe::DType::f32, polymoe::DType::f64), \
                           polymoe::test::dtype_name)
