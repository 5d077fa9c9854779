// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "parallel/parameters/parameter_store.h"

namespace polymoe::test {

constexpr std::int64_t toy_experts = 8;
constexpr int toy_segments = 5;

/// Parameters of many kinds and awkward sizes: dense and expert, stacked and single, with and
/// without decay, a segment with nothing in it, elements fewer than ranks.
inline void declare_toy_parameters(ParameterStore& store, const ProcessMesh& mesh) {
  const Initializer normal{.scale = 0.02, .listed = {}};
  const Initializer truncated{.scale = 0.5, .truncation = 1.5, .listed = {}};
  const Initializer ones{.kind = InitialValues::constant, .scale = 1.0, .listed = {}};
  const Initializer listed{.kind = InitialValues::listed, .listed = {0.0, 0.25, 0.5}};

  const auto dense = [&](const std::string& name, const Shape& shape, bool decay,
                         const Initializer& initializer) {
    store.declare({.logical = {{name, shape}},
                   .shape = shape,
                   .scope = ParameterScope::dense,
                   .decay = decay,
                   .wide = initializer.kind == InitialValues::listed,
                   .initializer = initializer,
                   .value = {},
                   .gradient = {}});
  };
  const auto experts = [&](const std::string& name, std::int64_t rows, std::int64_t columns,
                           bool decay, const Initializer& initializer) {
    const std::int64_t local = toy_experts / mesh.expert_parallel();
    Parameter parameter{.logical = {},
                        .shape = {local, rows, columns},
                        .scope = ParameterScope::expert,
                        .decay = decay,
                        .wide = initializer.kind == InitialValues::listed,
                        .initializer = initializer,
                        .value = {},
                        .gradient = {}};
    for (std::int64_t e = 0; e < local; ++e) {
      const std::int64_t id = mesh.first_expert(toy_experts) + e;
      parameter.logical.push_back({"experts." + std::to_string(id) + "." + name, {rows, columns}});
    }
    store.declare(std::move(parameter));
  };

  store.begin_segment();
  dense("embedding", {50, 7}, true, normal);
  store.begin_segment();
  dense("norm", {7}, false, ones);
  dense("query", {33, 9}, true, truncated);
  experts("up", 5, 3, true, normal);
  experts("slope", 1, 2, false, listed);
  experts("down", 3, 5, true, normal);
  dense("coefficients", {4}, false, listed);
  store.begin_segment();
  experts("late", 2, 3, true, truncated);
  dense("tiny", {1}, true, ones);
  store.begin_segment();  // nothing
  store.begin_segment();
  dense("output", {7, 50}, true, normal);
}

}  // namespace polymoe::test
