// SPDX-License-Identifier: Apache-2.0
#include "launch/examining/speed.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/matmul/matmul.h"
#include "kernels/random_normal/random_normal.h"
#include "launch/examining/examination.h"
#include "parallel/communication/collective.h"
#include "parallel/communication/communicator.h"
#include "runtime/arena.h"
#include "runtime/context.h"
#include "runtime/copy.h"
#include "runtime/cuda/gpu.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::int64_t mebi = std::int64_t{1} << 20;

struct Extents {
  std::int64_t product;  // of a square product
  int products;          // of a round
  std::int64_t copied;   // bytes
  std::int64_t message;  // bytes
};

Extents extents_of(Device device) {
  if (device.type == DeviceType::cuda)
    return {.product = 8192, .products = 20, .copied = 1024 * mebi, .message = 64 * mebi};
  return {.product = 1024, .products = 1, .copied = 64 * mebi, .message = 4 * mebi};
}

/// The shortest of `rounds` that all ranks begin together.
template <class Body>
double best_seconds(int rounds, Communicator& world, Stream& stream, const Body& body) {
  double best = std::numeric_limits<double>::infinity();
  body();  // warms up
  stream.synchronize();
  for (int round = 0; round < rounds; ++round) {
    world.barrier();
    const auto begin = Clock::now();
    body();
    stream.synchronize();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return std::max(best, 1e-9);
}

struct Pinned {
  explicit Pinned(std::size_t bytes) : memory(cuda::allocate_pinned(bytes)) {}
  ~Pinned() { cuda::release_pinned(memory); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  void* memory;
};

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// A message between this rank and `partner`, both ways; of the others none. Collective.
void exchange_with(int partner, const Tensor& send, const Tensor& receive, Communicator& world,
                   Stream& stream) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(world.size()), 0);
  if (partner != world.rank()) rows[static_cast<std::size_t>(partner)] = 1;
  world.all_to_all(send, rows, receive, rows, stream);
  stream.synchronize();
}

/// How far the clock of `other` is ahead of rank 0's, in seconds: what it says when asked, against
/// the middle between question and answer, of the quickest of a few. On rank 0; elsewhere 0.
double clock_offset(int other, Communicator& world, Stream& stream) {
  constexpr int questions = 8;
  double quickest = std::numeric_limits<double>::infinity(), offset = 0.0;
  std::int64_t question = 0;
  double answer = 0.0;
  const Tensor question_row(&question, {1, 1}, DType::i64, Device::cpu());
  const Tensor answer_row(&answer, {1, 1}, DType::f64, Device::cpu());
  const bool asks = world.rank() == 0, answers = world.rank() == other;
  const auto pieces = [](bool any, int peer, const Tensor& row) {
    return any ? std::vector<PeerRows>{{peer, row}} : std::vector<PeerRows>{};
  };
  for (int i = 0; i < questions; ++i) {
    const double begin = wall_time();
    world.exchange(pieces(asks, other, question_row), pieces(answers, 0, question_row), stream);
    answer = wall_time();
    world.exchange(pieces(answers, 0, answer_row), pieces(asks, other, answer_row), stream);
    const double end = wall_time();
    if (!asks || end - begin >= quickest) continue;
    quickest = end - begin;
    offset = answer - (begin + end) / 2;
  }
  return offset;
}

void examine_clocks(const std::vector<std::int64_t>& first_ranks, Communicator& world,
                    Stream& stream, Examination& found) {
  constexpr double allowed_seconds = 0.1;
  double most = 0.0;
  for (const std::int64_t other : first_ranks) {
    if (other == 0) continue;
    const double offset = clock_offset(static_cast<int>(other), world, stream);
    most = std::max(most, std::abs(offset));
    if (world.rank() == 0 && std::abs(offset) > allowed_seconds)
      found.problems.push_back(
          fmt::format("the clock of rank {}'s node is {:.3f} s {} this one's: times of logs and "
                      "ledgers cannot be compared",
                      other, std::abs(offset), offset > 0.0 ? "ahead of" : "behind"));
  }
  if (world.rank() == 0 && first_ranks.size() > 1)
    found.remarks.push_back(fmt::format("clocks of nodes are {:.1f} ms apart at most", 1e3 * most));
}

}  // namespace

int rounds_of_pairs(int ranks) { return ranks < 2 ? 0 : (ranks % 2 == 0 ? ranks - 1 : ranks); }

int partner_of(int rank, int round, int ranks) {
  // A tournament on a circle: seats turn by one a round, the last one stays; with an odd number of
  // ranks nobody sits there.
  const int circle = rounds_of_pairs(ranks);
  if (rank == circle) {  // sits in the middle
    for (int i = 0; i < circle; ++i)
      if (2 * i % circle == round) return i;
  }
  const int partner = ((round - rank) % circle + circle) % circle;
  if (partner != rank) return partner;
  return circle < ranks ? circle : rank;
}

std::size_t examined_arena_bytes(Device device) {
  const Extents extents = extents_of(device);
  const std::int64_t products = 3 * extents.product * extents.product * 4;
  return static_cast<std::size_t>(std::max({products, 2 * extents.copied, 4 * extents.message}) +
                                  64 * mebi);
}

void examine_rates(DType dtype, int rounds, Communicator& world, ExecutionContext& context,
                   Examination& found) {
  const Extents extents = extents_of(context.stream.device());
  const bool on_gpu = context.stream.device().type == DeviceType::cuda;
  const auto add = [&](const std::string& name, const char* unit, double value) {
    found.figures.push_back({.name = name, .unit = unit, .where = found.where, .value = value});
  };
  {
    const Arena::Scope scope(context.arena);
    const Shape shape{extents.product, extents.product};
    const Tensor a = context.arena.allocate(shape, dtype), b = context.arena.allocate(shape, dtype),
                 c = context.arena.allocate(shape, dtype);
    random_normal(RandomStream(1, "a"), {}, a, context.stream);
    random_normal(RandomStream(1, "b"), {}, b, context.stream);
    const double seconds = best_seconds(rounds, world, context.stream, [&] {
      for (int i = 0; i < extents.products; ++i)
        matmul(a, Transpose::no, b, Transpose::no, Write::overwrite, c, context.stream);
    });
    add(std::string("matrix products, ") + name_of(dtype), on_gpu ? "TFLOP/s" : "GFLOP/s",
        2.0 * extents.products * std::pow(static_cast<double>(extents.product), 3.0) / seconds *
            (on_gpu ? 1e-12 : 1e-9));
  }
  const Arena::Scope scope(context.arena);
  const Tensor from = context.arena.allocate({extents.copied}, DType::u8);
  const Tensor to = context.arena.allocate({extents.copied}, DType::u8);
  set_zero(from, context.stream);
  add("copying memory, read and written", "GB/s",
      2e-9 * static_cast<double>(extents.copied) /
          best_seconds(rounds, world, context.stream, [&] { copy(from, to, context.stream); }));
  if (!on_gpu) return;
  const Pinned pinned(static_cast<std::size_t>(extents.copied));
  const Tensor host(pinned.memory, {extents.copied}, DType::u8, Device::cpu());
  const double bytes = static_cast<double>(extents.copied);
  add("copying to the GPU", "GB/s", 1e-9 * bytes / best_seconds(rounds, world, context.stream, [&] {
                                      copy(host, to, context.stream);
                                    }));
  add("copying from the GPU", "GB/s",
      1e-9 * bytes /
          best_seconds(rounds, world, context.stream, [&] { copy(to, host, context.stream); }));
}

void examine_exchange(int rounds, std::int64_t node, bool first_on_node, Communicator& world,
                      ExecutionContext& context, Examination& found) {
  const int ranks = world.size();
  if (ranks == 1) return;
  Stream& stream = context.stream;
  const auto all = static_cast<std::size_t>(ranks);
  std::vector<std::int64_t> nodes(all), firsts(all);
  world.all_to_all_counts(std::vector<std::int64_t>(all, node), nodes);
  world.all_to_all_counts(std::vector<std::int64_t>(all, first_on_node ? world.rank() : -1),
                          firsts);
  std::erase(firsts, -1);

  const Arena::Scope scope(context.arena);
  const std::int64_t bytes = extents_of(stream.device()).message;
  const Tensor send = context.arena.allocate({1, bytes}, DType::u8);
  const Tensor receive = context.arena.allocate({1, bytes}, DType::u8);
  const Tensor small_send = context.arena.allocate({1, 8}, DType::u8);
  const Tensor small_receive = context.arena.allocate({1, 8}, DType::u8);
  set_zero(send, stream);
  set_zero(small_send, stream);
  constexpr int small_ones = 10;
  for (int round = 0; round < rounds_of_pairs(ranks); ++round) {
    const int partner = partner_of(world.rank(), round, ranks);
    const double large = best_seconds(
        rounds, world, stream, [&] { exchange_with(partner, send, receive, world, stream); });
    const double small = best_seconds(rounds, world, stream, [&] {
      for (int i = 0; i < small_ones; ++i)
        exchange_with(partner, small_send, small_receive, world, stream);
    });
    if (partner <= world.rank()) continue;
    const bool within = nodes[static_cast<std::size_t>(partner)] == node;
    const char* which = within ? "within a node" : "between nodes";
    const std::string where = fmt::format("ranks {}, {}", world.rank(), partner);
    found.figures.push_back({.name = fmt::format("pair {}, each way", which),
                             .unit = "GB/s",
                             .where = where,
                             .value = 1e-9 * static_cast<double>(bytes) / large});
    found.figures.push_back({.name = fmt::format("pair {}, 8 bytes", which),
                             .unit = "us",
                             .where = where,
                             .value = 1e6 * small / small_ones,
                             .more_is_better = false});
  }

  const std::int64_t part = std::max<std::int64_t>(bytes / ranks, 8);
  const Tensor parts = context.arena.allocate({ranks, part}, DType::u8);
  const Tensor arriving = context.arena.allocate({ranks, part}, DType::u8);
  const Tensor words = context.arena.allocate({ranks, 8}, DType::u8);
  const Tensor arriving_words = context.arena.allocate({ranks, 8}, DType::u8);
  set_zero(parts, stream);
  set_zero(words, stream);
  const std::vector<std::int64_t> one_each(all, 1);
  const double large = best_seconds(rounds, world, stream, [&] {
    world.all_to_all(parts, one_each, arriving, one_each, stream);
  });
  const double small = best_seconds(rounds, world, stream, [&] {
    world.all_to_all(words, one_each, arriving_words, one_each, stream);
  });
  examine_clocks(firsts, world, stream, found);
  if (world.rank() != 0) return;
  found.figures.push_back(
      {.name = "all with all, sent by each",
       .unit = "GB/s",
       .where = "all ranks",
       .value = 1e-9 * static_cast<double>(part) * static_cast<double>(ranks - 1) / large});
  found.figures.push_back({.name = "all with all, 8 bytes",
                           .unit = "us",
                           .where = "all ranks",
                           .value = 1e6 * small,
                           .more_is_better = false});
}

}  // namespace polymoe
