// SPDX-License-Identifier: Apache-2.0
// Every device's step of generation against norm, rotation and attention of the CPU in f64.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_step.h"
#include "kernels/rotary/norm_rotary.h"
#include "kernels/rotary/rotary.h"
#include "runtime/copy.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"

namespace polymoe {
namespace {

using test::bitwise_equal;
using test::converted;
using test::norm_tolerance;
using test::random_tensor;
using test::relative_error;
using test::tensor_of;

struct Case {
  std::int64_t heads, kv_heads, head_dim, position;
  bool normed;
};

class AttentionStepDevices : public test::OnDevice {
 protected:
  struct Host {
    OwnedTensor q, k, v, q_norm, k_norm, keys, values;
  };
  Host drawn(const Case& c) {
    const std::int64_t width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
    const Shape rows{c.position, c.kv_heads, c.head_dim};
    return {random_tensor({1, width}, dtype(), "q"),
            random_tensor({1, kv_width}, dtype(), "k"),
            random_tensor({1, kv_width}, dtype(), "v"),
            random_tensor({width}, dtype(), "q_norm", {1.0, 0.2}),
            random_tensor({kv_width}, dtype(), "k_norm", {1.0, 0.2}),
            random_tensor(rows, dtype(), "keys"),
            random_tensor(rows, dtype(), "values")};
  }

  struct Results {
    OwnedTensor out, keys, values, tickets;  // keys and values with the token's own
  };

  static constexpr double theta = 1e4, epsilon = 1e-5;

  /// `room`: positions of the cache behind the token's.
  Results on_device(const Case& c, const Host& host, std::int64_t room) {
    const std::int64_t end = c.position + 1;
    const Shape cached{end + room, c.kv_heads, c.head_dim};
    const OwnedTensor q = moved(*host.q), k = moved(*host.k), v = moved(*host.v);
    const OwnedTensor q_norm = moved(*host.q_norm), k_norm = moved(*host.k_norm);
    const OwnedTensor keys = poisoned(cached, dtype()), values = poisoned(cached, dtype());
    copy(*moved(*host.keys), keys->rows(0, c.position), stream());
    copy(*moved(*host.values), values->rows(0, c.position), stream());
    stream().synchronize();
    const OwnedTensor position =
        moved(*tensor_of({1}, DType::i32, {static_cast<double>(c.position)}));
    const OwnedTensor tickets({c.heads}, DType::i32, device());
    const OwnedTensor out = poisoned({1, c.heads * c.head_dim}, dtype());
    attention_step({.heads = c.heads,
                    .kv_heads = c.kv_heads,
                    .head_dim = c.head_dim,
                    .theta = theta,
                    .norm_epsilon = epsilon},
                   {.q = *q,
                    .k = *k,
                    .v = *v,
                    .q_norm = c.normed ? *q_norm : Tensor(),
                    .k_norm = c.normed ? *k_norm : Tensor()},
                   {.keys = *keys, .values = *values, .position = *position, .tickets = *tickets},
                   *out, arena(), stream());
    return {fetched(*out), fetched(keys->rows(0, end)), fetched(values->rows(0, end)),
            fetched(*tickets)};
  }

  static Results in_f64(const Case& c, const Host& host) {
    Stream cpu(Device::cpu());
    Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true});
    const DType f64 = DType::f64;
    const std::int64_t end = c.position + 1;
    const RotaryPositions positions{
        .sequence_length = 1, .first_position = c.position, .theta = theta};
    const auto rotated = [&](const Tensor& x, const Tensor& norm, std::int64_t heads) {
      OwnedTensor y = converted(x, f64);
      const Tensor by_head = y->view({1, heads, c.head_dim});
      const OwnedTensor inv_rms({1}, f64, Device::cpu());
      if (c.normed)
        norm_rotary_forward(positions, by_head, *converted(norm, f64), epsilon, by_head, *inv_rms,
                            cpu);
      else
        rotary_forward(positions, by_head, cpu);
      return y;
    };
    const OwnedTensor q = rotated(*host.q, *host.q_norm, c.heads);
    const OwnedTensor k = rotated(*host.k, *host.k_norm, c.kv_heads);
    const Shape cached{end, c.kv_heads, c.head_dim};
    Results result{OwnedTensor({1, c.heads * c.head_dim}, f64, Device::cpu()),
                   OwnedTensor(cached, f64, Device::cpu()),
                   OwnedTensor(cached, f64, Device::cpu()),
                   {}};
    copy(*converted(*host.keys, f64), result.keys->rows(0, c.position), cpu);
    copy(*converted(*host.values, f64), result.values->rows(0, c.position), cpu);
    copy(*k, result.keys->rows(c.position, end), cpu);
    copy(*converted(*host.v, f64), result.values->rows(c.position, end), cpu);
    const OwnedTensor log_sum_exp({1, c.heads, 1}, f64, Device::cpu());
    attention_forward({.batch = 1,
                       .query_length = 1,
                       .key_length = end,
                       .heads = c.heads,
                       .kv_heads = c.kv_heads,
                       .head_dim = c.head_dim},
                      q->view({1, c.heads, c.head_dim}), *result.keys, *result.values,
                      result.out->view({1, c.heads, c.head_dim}), *log_sum_exp, scratch, cpu);
    return result;
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, AttentionStepDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

// Positions on both sides of a span of 256 keys, and of several; heads that fill a kernel's and
// some that do not.
const Case cases[] = {{2, 2, 64, 0, false},    {4, 2, 8, 3, true},       {4, 1, 128, 80, true},
                      {16, 16, 128, 80, true}, {2, 1, 64, 255, false},   {2, 1, 64, 256, true},
                      {3, 3, 80, 600, true},   {2, 2, 128, 1023, false}, {2, 2, 256, 300, true}};

TEST_P(AttentionStepDevices, IsNormRotationAndAttentionInF64) {
  for (const Case& c : cases) {
    SCOPED_TRACE(std::to_string(c.heads) + " heads of " + std::to_string(c.head_dim) +
                 " at position " + std::to_string(c.position) + (c.normed ? ", normed" : ""));
    const Host host = drawn(c);
    const Results expected = in_f64(c, host), actual = on_device(c, host, 300);
    EXPECT_LE(relative_error(*actual.out, *expected.out), norm_tolerance(dtype()));
    EXPECT_LE(relative_error(*actual.keys, *expected.keys), norm_tolerance(dtype()));
    EXPECT_TRUE(bitwise_equal(*actual.values, *expected.values));
    for (const double ticket : test::values_of(*actual.tickets)) EXPECT_EQ(ticket, 0.0);
  }
}

TEST_P(AttentionStepDevices, BitsDependNeitherOnTheRunNorOnTheRoomThatIsLeft) {
  const Case c{4, 2, 128, 700, true};
  const Host host = drawn(c);
  const Results first = on_device(c, host, 0);
  for (const std::int64_t room : {0, 1, 5000}) {
    EXPECT_TRUE(bitwise_equal(*on_device(c, host, room).out, *first.out)) << room;
  }
}

}  // namespace
}  // namespace polymoe
