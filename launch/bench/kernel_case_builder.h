// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "launch/bench/kernel_cases.h"
#include "launch/step/memory_plan.h"
#include "runtime/tensor.h"

namespace polymoe {

/// The extents' product, where it may pass 64 bits.
double product_of(std::initializer_list<std::int64_t> extents);

/// Normal values of that standard deviation.
Tensor varied(const Shape& shape, DType dtype, double scale, ExecutionContext& context);
Tensor constant(const Shape& shape, DType dtype, double value, ExecutionContext& context);
/// i32 in [0, below).
Tensor random_ids(const Shape& shape, std::int64_t below, ExecutionContext& context);

/// Builds what kernel_cases() returns.
class KernelCases {
 public:
  KernelCases(const Config& config, const PlannedLayout& layout);
  std::vector<KernelCase> all();

 private:
  struct FeedForwardExtents {
    std::int64_t experts = 1;
    std::int64_t rows = 0;
    std::int64_t width = 0;
    bool weighted = false;  // by the router
  };

  void add(std::string name, std::string shape, const WorkFloor& floor,
           std::function<std::function<void()>(ExecutionContext&)> prepare) {
    cases_.push_back({std::move(name), std::move(shape), floor, std::move(prepare)});
  }
  /// A product [m, k] by [k, n] as an operation of a linear layer has it.
  void product(const std::string& name, std::int64_t m, std::int64_t n, std::int64_t k,
               Transpose transpose_a, Transpose transpose_b);
  void linear();
  void norms();
  void attention();
  void activation(const std::string& which, const FeedForwardExtents& extents);
  void feed_forward(const std::string& which, const FeedForwardExtents& extents);
  void router();
  void exchange();
  void output();
  void optimizer();

  const ModelConfig model_;
  const DType dtype_, wide_;  // of activations and values; of sums and statistics
  const DType gradients_, moments_;
  const double value_bytes_, wide_bytes_, gradient_bytes_;
  const std::int64_t tokens_, sequences_, expert_parallel_, owned_;
  std::vector<KernelCase> cases_;
};

}  // namespace polymoe
