// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/machine_rates.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/backend.h"
#include "kernels/matmul/matmul.h"
#include "kernels/random_normal/random_normal.h"
#include "kernels/reduction/reduction.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "runtime/arena.h"
#include "runtime/buffer.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"

namespace polymoe {
namespace {

/// The most work per second that all ranks together did in a round.
template <class Body>
double best_rate(Communicator& world, double work_per_rank, ExecutionContext& context,
                 const Body& body) {
  using Clock = std::chrono::steady_clock;
  constexpr int rounds = 24;  // the first one warms up; many, so that a busy moment is outlived
  const OwnedTensor rate({1}, DType::f64, Device::cpu());
  double best = 0.0;
  for (int round = 0; round < rounds; ++round) {
    world.barrier();
    const auto begin = Clock::now();
    body();
    context.stream.synchronize();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    *rate->data<double>() = work_per_rank / std::max(seconds, 1e-9);
    world.all_reduce(*rate, Reduction::sum, context.stream);
    if (round > 0) best = std::max(best, *rate->data<double>());
  }
  return best;
}

/// Sum of the words, by which nobody can leave out the reading.
std::uint64_t sum_of_words(const std::uint64_t* words, std::int64_t count) {
  std::uint64_t total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
  for (std::int64_t i = 0; i < count; ++i) total += words[i];
  return total;
}

}  // namespace

double measure_product_rate(Communicator& world, const SquareProduct& product,
                            ExecutionContext& context) {
  const Arena::Scope scope(context.arena);
  const Shape shape{product.extent, product.extent};
  const Tensor a = context.arena.allocate(shape, product.dtype);
  const Tensor b = context.arena.allocate(shape, product.dtype);
  const Tensor c = context.arena.allocate(shape, product.dtype);
  // A GPU multiplies numbers that are alike faster than it ever does in training.
  random_normal(RandomStream(1, "a"), {}, a, context.stream);
  random_normal(RandomStream(1, "b"), {}, b, context.stream);
  const auto n = static_cast<double>(product.extent);
  return best_rate(world, 2.0 * n * n * n, context, [&] {
    matmul(a, Transpose::no, b, Transpose::no, Write::overwrite, c, context.stream);
  });
}

double measure_copy_bandwidth(Communicator& world, std::int64_t bytes, ExecutionContext& context) {
  constexpr std::int64_t block = std::int64_t{1} << 20;
  const Arena::Scope scope(context.arena);
  const Tensor from = context.arena.allocate({bytes}, DType::u8);
  const Tensor to = context.arena.allocate({bytes}, DType::u8);
  set_zero(from, context.stream);
  const bool on_cpu = from.device().type == DeviceType::cpu;
  return best_rate(world, 2.0 * static_cast<double>(bytes), context, [&] {
    if (!on_cpu) return copy(from, to, context.stream);
      // One core does not reach what the memory gives.
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < bytes; i += block) {
      std::memcpy(to.data<std::uint8_t>() + i, from.data<std::uint8_t>() + i,
                  static_cast<std::size_t>(std::min(block, bytes - i)));
    }
  });
}

double measure_read_bandwidth(Communicator& world, std::int64_t bytes, ExecutionContext& context) {
  const Arena::Scope scope(context.arena);
  const Tensor words = context.arena.allocate({bytes / 8}, DType::i64);
  set_zero(words, context.stream);
  if (words.device().type == DeviceType::cpu) {
    volatile std::uint64_t total = 0;
    return best_rate(world, static_cast<double>(words.bytes()), context, [&] {
      total = sum_of_words(static_cast<const std::uint64_t*>(words.raw()), words.elements());
    });
  }
  const Tensor values(words.raw(), {2 * words.elements()}, DType::f32, words.device());
  const Tensor total = context.arena.allocate({1}, DType::f64);
  return best_rate(world, static_cast<double>(words.bytes()), context,
                   [&] { sum(values, total, context.arena, context.stream); });
}

double measure_all_to_all_bandwidth(Communicator& world, std::int64_t bytes,
                                    ExecutionContext& context) {
  const auto ranks = static_cast<std::int64_t>(world.size());
  if (ranks == 1) return 0.0;
  const std::int64_t part = std::max<std::int64_t>(bytes / ranks, 1);
  const Arena::Scope scope(context.arena);
  const Tensor send = context.arena.allocate({ranks, part}, DType::u8);
  const Tensor receive = context.arena.allocate({ranks, part}, DType::u8);
  set_zero(send, context.stream);
  set_zero(receive, context.stream);
  const std::vector<std::int64_t> one_each(static_cast<std::size_t>(ranks), 1);
  return best_rate(world, static_cast<double>(part * (ranks - 1)), context,
                   [&] { world.all_to_all(send, one_each, receive, one_each, context.stream); });
}

LinkRates measure_link(Communicator& world, std::int64_t bytes, ExecutionContext& context) {
  const auto ranks = static_cast<std::int64_t>(world.size());
  if (ranks == 1) return {};
  const Arena::Scope scope(context.arena);
  const std::int64_t part =
      std::max<std::int64_t>(bytes / (ranks * static_cast<std::int64_t>(size_of(DType::f32))), 1);
  const Tensor values = context.arena.allocate({ranks * part}, DType::f32);
  set_zero(values, context.stream);
  const auto of_all = static_cast<double>(ranks);
  const double sent = static_cast<double>(values.bytes()) * (of_all - 1.0) / of_all;
  LinkRates link;
  link.all_to_all = measure_all_to_all_bandwidth(world, bytes, context) / of_all;
  link.reduce_scatter =
      best_rate(world, sent, context, [&] { world.reduce_scatter(values, context.stream); }) /
      of_all;
  link.all_gather =
      best_rate(world, sent, context, [&] { world.all_gather(values, context.stream); }) / of_all;
  // One byte to each: its rate tells the time.
  link.latency = (of_all - 1.0) * of_all / measure_all_to_all_bandwidth(world, ranks, context);
  return link;
}

}  // namespace polymoe
