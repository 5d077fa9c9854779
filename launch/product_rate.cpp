// SPDX-License-Identifier: Apache-2.0
#include "launch/product_rate.h"

#include <algorithm>
#include <chrono>

#include "kernels/matmul.h"
#include "kernels/reduction.h"
#include "runtime/buffer.h"

namespace polymoe {

double measure_product_rate(Communicator& world, std::int64_t extent, ExecutionContext& context) {
  using Clock = std::chrono::steady_clock;
  constexpr int rounds = 24;  // the first one warms up; many, so that a busy moment is outlived
  const Arena::Scope scope(context.arena);
  const Tensor a = context.arena.allocate({extent, extent}, DType::f32);
  const Tensor b = context.arena.allocate({extent, extent}, DType::f32);
  const Tensor c = context.arena.allocate({extent, extent}, DType::f32);
  fill(1.0, a, context.stream);
  fill(0.5, b, context.stream);

  const auto n = static_cast<double>(extent);
  const OwnedTensor rate({1}, DType::f64, Device::cpu());
  double best = 0.0;
  for (int round = 0; round < rounds; ++round) {
    world.barrier();
    const auto begin = Clock::now();
    matmul(a, Transpose::no, b, Transpose::no, Write::overwrite, c, context.stream);
    context.stream.synchronize();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    *rate->data<double>() = 2.0 * n * n * n / std::max(seconds, 1e-9);
    world.all_reduce(*rate, Reduction::sum, context.stream);
    if (round > 0) best = std::max(best, *rate->data<double>());
  }
  return best;
}

}  // namespace polymoe
