// SPDX-License-Identifier: Apache-2.0
#include "tests/parallel/communication/row_transfer_checks.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/error.h"
#include "tests/parallel/communication/collective_values.h"

namespace polymoe {
namespace {

/// Rows that `from` sends to `to` in the given round: uneven, and zero for some pairs.
std::int64_t rows_between(int from, int to, int round) {
  if (round == 0) return 0;                           // nobody sends anything
  if (round == 1) return from == 0 ? 1000 : 0;        // one sender
  if (round == 2) return to == 0 ? 3 * from + 1 : 0;  // one receiver
  return (from * 5 + to * 3 + round) % 4 * 17000;     // up to several MB
}

template <class T>
void check_all_to_all_of(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(bed.device);
  constexpr std::int64_t width = 5;
  const int self = world.rank();
  const auto value_of = [](int from, int to, std::int64_t i) {
    return static_cast<T>((i + 101 * from + 53 * to) % 250);
  };
  for (int round = 0; round < 4; ++round) {
    std::vector<std::int64_t> send_rows, receive_rows;
    std::vector<T> send, expected;
    for (int peer = 0; peer < world.size(); ++peer) {
      send_rows.push_back(rows_between(self, peer, round));
      receive_rows.push_back(rows_between(peer, self, round));
      for (std::int64_t i = 0; i < send_rows.back() * width; ++i) {
        send.push_back(value_of(self, peer, i));
      }
      for (std::int64_t i = 0; i < receive_rows.back() * width; ++i) {
        expected.push_back(value_of(peer, self, i));
      }
    }
    std::vector<T> receive(expected.size(), T{251});
    const auto rows = [](Tensor flat) { return flat.view({flat.elements() / width, width}); };
    Placed<T> from(bed, send, stream), to(bed, receive, stream);
    world.all_to_all(rows(from.tensor()), send_rows, rows(to.tensor()), receive_rows, stream);
    to.fetch();
    EXPECT_TRUE(receive == expected) << name_of(dtype_of<T>()) << " round " << round;
  }
}

}  // namespace

void check_all_to_all(const CollectiveBed& bed) {
  check_all_to_all_of<float>(bed);
  check_all_to_all_of<double>(bed);
  check_all_to_all_of<std::int32_t>(bed);
}

void check_exchange(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  Stream stream(Device::cpu());
  const int self = world.rank();
  const auto count = [](int from, int to, int piece) {
    return (from * 3 + to * 5 + piece) % 4 * 30000;  // up to several hundred KB
  };
  const auto value = [](int from, int to, int piece) {
    return static_cast<float>(100 * from + 10 * to + piece);
  };
  std::vector<std::vector<float>> out, in;
  std::vector<std::vector<std::int64_t>> out_number, in_number;
  for (int peer = 0; peer < world.size(); ++peer) {
    for (int piece = 0; piece < 3; ++piece) {
      const auto leaving = static_cast<std::size_t>(count(self, peer, piece));
      out.emplace_back(leaving + 2, -1.0F);
      std::fill_n(out.back().begin() + 1, leaving, value(self, peer, piece));
      in.emplace_back(static_cast<std::size_t>(count(peer, self, piece)) + 2, -2.0F);
    }
    out_number.push_back({self});
    in_number.push_back({-1});
  }
  std::vector<PeerRows> send, receive;
  const auto inner = [](std::vector<float>& values) {
    return tensor_of(values).rows(1, static_cast<std::int64_t>(values.size()) - 1);
  };
  for (int peer = 0; peer < world.size(); ++peer) {
    if (peer == self) continue;
    const auto p = static_cast<std::size_t>(peer);
    for (std::size_t piece = 0; piece < 3; ++piece) {
      send.push_back({peer, inner(out[3 * p + piece])});
      receive.push_back({peer, inner(in[3 * p + piece])});
    }
    send.push_back({peer, tensor_of(out_number[p])});
    receive.push_back({peer, tensor_of(in_number[p])});
  }
  world.exchange(send, receive, stream);
  for (int peer = 0; peer < world.size(); ++peer) {
    if (peer == self) continue;
    const auto p = static_cast<std::size_t>(peer);
    EXPECT_EQ(in_number[p][0], peer);
    for (int piece = 0; piece < 3; ++piece) {
      std::vector<float> expected(static_cast<std::size_t>(count(peer, self, piece)) + 2,
                                  value(peer, self, piece));
      expected.front() = expected.back() = -2.0F;
      EXPECT_TRUE(in[3 * p + static_cast<std::size_t>(piece)] == expected)
          << "piece " << piece << " of rank " << peer;
    }
  }
  const std::vector<PeerRows> own{{self, tensor_of(out_number[0])}};
  EXPECT_THROW(world.exchange(own, {}, stream), InvalidArgument);
  EXPECT_THROW(world.exchange({}, own, stream), InvalidArgument);
  EXPECT_NO_THROW(world.exchange({}, {}, stream));
}

void check_counts(const CollectiveBed& bed) {
  Communicator& world = bed.world;
  constexpr int each = 3;
  std::vector<std::int64_t> send, expected;
  for (int peer = 0; peer < world.size(); ++peer) {
    for (int i = 0; i < each; ++i) {
      send.push_back(world.rank() * 100 + peer * 10 + i);
      expected.push_back(peer * 100 + world.rank() * 10 + i);
    }
  }
  std::vector<std::int64_t> receive(send.size(), -1);
  world.all_to_all_counts(send, receive);
  EXPECT_EQ(receive, expected);
}

}  // namespace polymoe
