// SPDX-License-Identifier: Apache-2.0
#include "tests/parallel/communication/collective_checks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "runtime/error.h"
#include "runtime/float16.h"
#include "tests/parallel/communication/collective_values.h"
#include "tests/parallel/communication/row_transfer_checks.h"

namespace polymoe {
namespace {

// Below and above the sizes where an algorithm or the chunking changes, and ragged ones.
const std::vector<std::size_t> counts{0, 1, 3, 100, 8191, 8193, 100003, 600007};

template <class T>
void check_all_reduce_of(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  for (const std::size_t count : counts) {
    for (const Reduction reduction : {Reduction::sum, Reduction::max}) {
      std::vector<T> values = contribution<T>(world.rank(), count);
      with_tensor(bed, values, stream,
                  [&](Tensor tensor) { world.all_reduce(tensor, reduction, stream); });
      const auto expected = expected_reduction<T>(world.size(), count, reduction);
      EXPECT_TRUE(same_sums<T>(bed, values, expected)) << name_of(dtype_of<T>()) << " x " << count;
    }
  }
}

void check_all_reduce(const CollectiveBed& bed) {
  check_all_reduce_of<float>(bed);
  check_all_reduce_of<double>(bed);
  check_all_reduce_of<std::int64_t>(bed);
}

void check_nan(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  for (int culprit = 0; culprit < world.size(); ++culprit) {
    std::vector<double> values(3, world.rank());
    if (world.rank() == culprit) values[1] = std::numeric_limits<double>::quiet_NaN();
    with_tensor(bed, values, stream,
                [&](Tensor tensor) { world.all_reduce(tensor, Reduction::max, stream); });
    EXPECT_EQ(values[0], world.size() - 1);
    EXPECT_TRUE(!bed.rank_order || std::isnan(values[1]));
  }
}

template <class T>
void check_reduce_scatter_of(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  const auto ranks = static_cast<std::size_t>(world.size());
  for (const std::size_t slice : counts) {
    std::vector<T> values = contribution<T>(world.rank(), slice * ranks);
    with_tensor(bed, values, stream, [&](Tensor tensor) { world.reduce_scatter(tensor, stream); });
    const auto expected = expected_reduction<T>(world.size(), slice * ranks, Reduction::sum);
    const std::size_t begin = slice * static_cast<std::size_t>(world.rank());
    EXPECT_TRUE(same_sums<T>(bed, std::span(values).subspan(begin, slice),
                             std::span(expected).subspan(begin, slice)))
        << name_of(dtype_of<T>()) << " slices of " << slice;
  }
}

void check_reduce_scatter(const CollectiveBed& bed) {
  check_reduce_scatter_of<float>(bed);
  check_reduce_scatter_of<double>(bed);
}

/// Sums and maxima of bf16 are those of the values in f32, rounded once where their order is that
/// of the ranks, and wherever there are two terms.
void check_bf16(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  const auto ranks = static_cast<std::size_t>(world.size());
  const auto narrow = [](int rank, std::size_t count) {
    std::vector<std::uint16_t> bits;
    for (const float value : contribution<float>(rank, count)) bits.push_back(bf16_of_float(value));
    return bits;
  };
  for (const std::size_t slice : {std::size_t{1}, std::size_t{100}, std::size_t{70001}}) {
    const std::size_t count = slice * ranks;
    std::vector<float> sums(count), largest(count, -std::numeric_limits<float>::infinity());
    for (int rank = 0; rank < world.size(); ++rank) {
      const std::vector<std::uint16_t> bits = narrow(rank, count);
      for (std::size_t i = 0; i < count; ++i) {
        sums[i] += float_of_bf16(bits[i]);
        largest[i] = std::max(largest[i], float_of_bf16(bits[i]));
      }
    }
    const auto expect = [&](const std::vector<std::uint16_t>& found, const std::vector<float>& all,
                            std::size_t begin, std::size_t end) {
      const double bound = bed.rank_order || ranks <= 2 ? 0.0 : 10.0 * static_cast<double>(ranks);
      std::size_t wrong = 0;
      for (std::size_t i = begin; i < end; ++i) {
        const float expected = float_of_bf16(bf16_of_float(all[i]));
        wrong += std::abs(float_of_bf16(found[i]) - expected) <= bound ? 0 : 1;
      }
      EXPECT_EQ(wrong, 0U) << "slices of " << slice;
    };
    const auto reduced = [&](const auto& reduce) {
      std::vector<std::uint16_t> values = narrow(world.rank(), count);
      with_tensor(bed, values, stream, [&](const Tensor& bits) {
        reduce(Tensor(bits.raw(), bits.shape(), DType::bf16, bits.device()));
      });
      return values;
    };
    expect(reduced([&](Tensor x) { world.all_reduce(x, Reduction::sum, stream); }), sums, 0, count);
    expect(reduced([&](Tensor x) { world.all_reduce(x, Reduction::max, stream); }), largest, 0,
           count);
    const std::size_t own = slice * static_cast<std::size_t>(world.rank());
    expect(reduced([&](Tensor x) { world.reduce_scatter(x, stream); }), sums, own, own + slice);
  }
}

template <class T>
void check_all_gather_of(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  for (const std::size_t slice : {std::size_t{0}, std::size_t{1}, std::size_t{70001}}) {
    std::vector<T> values, expected;
    for (int rank = 0; rank < world.size(); ++rank) {
      for (std::size_t i = 0; i < slice; ++i) {
        const auto value = static_cast<T>((i * 31 + static_cast<std::size_t>(rank) * 7) % 251);
        expected.push_back(value);
        values.push_back(rank == world.rank() ? value : T{255});
      }
    }
    with_tensor(bed, values, stream, [&](Tensor tensor) { world.all_gather(tensor, stream); });
    EXPECT_TRUE(values == expected) << name_of(dtype_of<T>()) << " slices of " << slice;
  }
}

void check_all_gather(const CollectiveBed& bed) {
  check_all_gather_of<float>(bed);
  check_all_gather_of<double>(bed);
  check_all_gather_of<std::int32_t>(bed);
  check_all_gather_of<std::int64_t>(bed);
  check_all_gather_of<std::uint16_t>(bed);
  check_all_gather_of<std::uint8_t>(bed);
}

void check_broadcast(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  for (int root = 0; root < world.size(); ++root) {
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{500009}}) {
      const std::vector<float> expected = contribution<float>(root, count);
      std::vector<float> values(count, std::nanf(""));
      if (world.rank() == root) values = expected;
      with_tensor(bed, values, stream,
                  [&](Tensor tensor) { world.broadcast(tensor, root, stream); });
      EXPECT_TRUE(values == expected) << "root " << root << ", " << count << " values";
    }
  }
}

void check_several_in_flight(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  constexpr int operations = 12;
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<std::vector<float>> values;
  std::vector<Pending> pending;
  for (int i = 0; i < operations; ++i) {
    values.push_back(contribution<float>(world.rank(), ranks * (1000 + 5000 * (i % 5))));
  }
  std::vector<Placed<float>> placed;
  for (auto& one : values) placed.emplace_back(bed, one, stream);
  for (int i = 0; i < operations; ++i) {
    const Tensor tensor = placed[static_cast<std::size_t>(i)].tensor();
    pending.push_back(i % 2 == 0 ? world.start_all_reduce(tensor, Reduction::sum, stream)
                                 : world.start_all_gather(tensor, stream));
  }
  // A blocking operation takes its place behind what was posted.
  std::vector<double> ones{1.0};
  with_tensor(bed, ones, stream,
              [&](Tensor tensor) { world.all_reduce(tensor, Reduction::sum, stream); });
  EXPECT_EQ(ones[0], world.size());
  for (int i = operations - 1; i >= 0; --i) pending[static_cast<std::size_t>(i)].wait(stream);
  for (auto& one : placed) one.fetch();
  for (std::size_t i = 0; i < values.size(); i += 2) {
    const auto expected = expected_reduction<float>(world.size(), values[i].size(), Reduction::sum);
    EXPECT_TRUE(same_sums<float>(bed, values[i], expected));
  }
  for (std::size_t i = 1; i < values.size(); i += 2) {
    const std::size_t slice = values[i].size() / ranks;
    for (std::size_t r = 0; r < ranks; ++r) {
      const auto theirs = contribution<float>(static_cast<int>(r), values[i].size());
      const auto begin = static_cast<std::ptrdiff_t>(r * slice);
      EXPECT_TRUE(std::equal(theirs.begin() + begin,
                             theirs.begin() + begin + static_cast<std::ptrdiff_t>(slice),
                             values[i].begin() + begin));
    }
  }
}

void check_abandoned(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  std::vector<double> values = contribution<double>(world.rank(), 1000);
  const auto expected = expected_reduction<double>(world.size(), 1000, Reduction::sum);
  Placed<double> placed(bed, values, stream);
  { const Pending abandoned = world.start_all_reduce(placed.tensor(), Reduction::sum, stream); }
  world.barrier();  // behind it: now the memory is no longer in use
  placed.fetch();
  EXPECT_TRUE(!bed.delivers_unwaited || same_sums<double>(bed, values, expected));
  // What comes after is not disturbed.
  std::vector<double> later = contribution<double>(world.rank(), 1000);
  with_tensor(bed, later, stream,
              [&](Tensor tensor) { world.all_reduce(tensor, Reduction::sum, stream); });
  EXPECT_TRUE(same_sums<double>(bed, later, expected));
}

void check_split(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  const int ranks = world.size();
  for (int groups = 1; groups <= ranks; ++groups) {
    // Neighbours, then every `groups`-th rank.
    for (const int color : {world.rank() / groups, world.rank() % groups}) {
      const bool neighbours = color == world.rank() / groups && groups > 1;
      std::vector<double> members(static_cast<std::size_t>(ranks), 0.0);
      members[static_cast<std::size_t>(world.rank())] = color + 1;
      with_tensor(bed, members, stream,
                  [&](Tensor tensor) { world.all_reduce(tensor, Reduction::sum, stream); });
      int size = 0, before = 0;
      double sum = 0.0;
      for (int rank = 0; rank < ranks; ++rank) {
        if (members[static_cast<std::size_t>(rank)] != color + 1) continue;
        ++size;
        sum += rank;
        if (rank < world.rank()) ++before;
      }
      auto group = world.split(color);
      EXPECT_EQ(group->size(), size) << neighbours;
      EXPECT_EQ(group->rank(), before);
      std::vector<double> value{static_cast<double>(world.rank())};
      Placed<double> placed(bed, members, stream);
      Pending in_world = world.start_all_reduce(placed.tensor(), Reduction::max, stream);
      with_tensor(bed, value, stream,
                  [&](Tensor tensor) { group->all_reduce(tensor, Reduction::sum, stream); });
      in_world.wait(stream);
      stream.synchronize();
      EXPECT_EQ(value[0], sum);
      group->shutdown();
    }
  }
}

void check_errors(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  std::vector<float> values(static_cast<std::size_t>(world.size()) * 2 + 1);
  std::vector<std::int32_t> integers(static_cast<std::size_t>(world.size()));
  std::vector<std::int64_t> rows(static_cast<std::size_t>(world.size()), 0);
  const Placed<float> placed_values(bed, values, stream);
  const Placed<std::int32_t> placed_integers(bed, integers, stream);
  const Tensor odd = placed_values.tensor();
  const Tensor whole = placed_integers.tensor();
  if (world.size() > 1) {
    EXPECT_THROW(world.reduce_scatter(odd, stream), InvalidArgument);
    EXPECT_THROW(world.all_gather(odd, stream), InvalidArgument);
  }
  EXPECT_THROW(world.all_reduce(whole, Reduction::sum, stream), InvalidArgument);
  EXPECT_THROW(world.reduce_scatter(whole, stream), InvalidArgument);
  EXPECT_THROW(world.broadcast(odd, world.size(), stream), InvalidArgument);
  EXPECT_THROW(world.all_reduce(Tensor(), Reduction::sum, stream), InvalidArgument);
  const auto all_to_all = [&](Tensor send, Tensor receive) {
    world.all_to_all(send, rows, receive, rows, stream);
  };
  EXPECT_NO_THROW(all_to_all(odd, odd));
  EXPECT_THROW(all_to_all(odd, whole), InvalidArgument);
  rows[0] = -1;
  EXPECT_THROW(all_to_all(odd, odd), InvalidArgument);
  rows[0] = static_cast<std::int64_t>(values.size()) + 1;
  EXPECT_THROW(all_to_all(odd, odd), InvalidArgument);
  rows.push_back(0);
  EXPECT_THROW(all_to_all(odd, odd), InvalidArgument);
  std::vector<std::int64_t> answer(rows.size() + 1);
  EXPECT_THROW(world.all_to_all_counts(rows, answer), InvalidArgument);
}

void check_meta(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(Device::meta());
  const Tensor values(nullptr, {16 * world.size(), 4}, DType::f32, Device::meta());
  const std::vector<std::int64_t> rows(static_cast<std::size_t>(world.size()), 16);
  EXPECT_NO_THROW(world.all_reduce(values, Reduction::sum, stream));
  EXPECT_NO_THROW(world.reduce_scatter(values, stream));
  EXPECT_NO_THROW(world.all_gather(values, stream));
  EXPECT_NO_THROW(world.broadcast(values, 0, stream));
  EXPECT_NO_THROW(world.all_to_all(values, rows, values, rows, stream));
}

void check_shutdown(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  auto group = world.split(0);
  std::vector<float> values(10, 1.0F);
  Placed<float> placed(bed, values, stream);
  Pending pending = group->start_all_reduce(placed.tensor(), Reduction::sum, stream);
  group->shutdown();  // behind what was posted
  if (!bed.delivers_unwaited) pending.wait(stream);
  placed.fetch();
  EXPECT_EQ(values[9], static_cast<float>(world.size()));
  EXPECT_THROW(group->all_reduce(placed.tensor(), Reduction::sum, stream), InvalidArgument);
  EXPECT_THROW(group->barrier(), InvalidArgument);
  EXPECT_NO_THROW(group->shutdown());
}

}  // namespace

const std::vector<CollectiveCheck>& collective_checks() {
  static const std::vector<CollectiveCheck> checks{
      {"all_reduce", check_all_reduce},
      {"max_keeps_nan", check_nan},
      {"reduce_scatter", check_reduce_scatter},
      {"bf16", check_bf16},
      {"all_gather", check_all_gather},
      {"all_to_all", check_all_to_all},
      {"all_to_all_counts", check_counts},
      {"exchange", check_exchange},
      {"broadcast", check_broadcast},
      {"several_in_flight", check_several_in_flight},
      {"abandoned", check_abandoned},
      {"split", check_split},
      {"errors", check_errors},
      {"meta", check_meta},
      {"shutdown", check_shutdown},
  };
  return checks;
}

}  // namespace polymoe
