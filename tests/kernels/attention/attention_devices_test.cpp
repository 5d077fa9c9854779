// SPDX-License-Identifier: Apache-2.0
// Every device's attention against the CPU's in f64 on the same rounded values.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_cuda_scratch.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::converted;
using test::norm_tolerance;
using test::poisoned_tensor;
using test::random_tensor;
using test::relative_error;
using test::values_of;

Shape query_shape(const AttentionShape& s) {
  return {s.batch * s.query_length, s.heads, s.head_dim};
}
Shape key_shape(const AttentionShape& s) {
  return {s.batch * s.key_length, s.kv_heads, s.head_dim};
}
Shape row_shape(const AttentionShape& s) { return {s.batch, s.heads, s.query_length}; }

struct Inputs {
  OwnedTensor q, k, v, d_out;
};
struct Results {
  OwnedTensor out, log_sum_exp, d_q, d_k, d_v;
};

class AttentionDevices : public test::OnDevice {
 protected:
  static std::string name_of_shape(const AttentionShape& s) {
    std::string name = "shape";
    for (const std::int64_t n :
         {s.batch, s.query_length, s.key_length, s.heads, s.kv_heads, s.head_dim}) {
      name += " " + std::to_string(n);
    }
    return name;
  }

  Inputs random_inputs(const AttentionShape& s, test::Normal of_q_and_k = {}) {
    return {random_tensor(query_shape(s), dtype(), "q", of_q_and_k),
            random_tensor(key_shape(s), dtype(), "k", of_q_and_k),
            random_tensor(key_shape(s), dtype(), "v"),
            random_tensor(query_shape(s), dtype(), "d_out")};
  }

  static Results run(const AttentionShape& s, const Inputs& in, Results to, Arena& scratch,
                     Stream& stream) {
    attention_forward(s, *in.q, *in.k, *in.v, *to.out, *to.log_sum_exp, scratch, stream);
    attention_backward(s, *in.d_out, *in.q, *in.k, *in.v, *to.out, *to.log_sum_exp, *to.d_q,
                       *to.d_k, *to.d_v, scratch, stream);
    return to;
  }

  Results on_device(const AttentionShape& s, const Inputs& host, DType type, Arena& scratch) {
    return run(s,
               {moved(*host.q, type), moved(*host.k, type), moved(*host.v, type),
                moved(*host.d_out, type)},
               {poisoned(query_shape(s), type), poisoned(row_shape(s), DType::f32),
                poisoned(query_shape(s), type), poisoned(key_shape(s), type),
                poisoned(key_shape(s), type)},
               scratch, stream());
  }
  Results on_device(const AttentionShape& s, const Inputs& host) {
    return on_device(s, host, dtype(), arena());
  }

  static Results in_f64(const AttentionShape& s, const Inputs& host) {
    Stream cpu(Device::cpu());
    Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true});
    const DType f64 = DType::f64;
    return run(s,
               {converted(*host.q, f64), converted(*host.k, f64), converted(*host.v, f64),
                converted(*host.d_out, f64)},
               {poisoned_tensor(query_shape(s), f64), poisoned_tensor(row_shape(s), f64),
                poisoned_tensor(query_shape(s), f64), poisoned_tensor(key_shape(s), f64),
                poisoned_tensor(key_shape(s), f64)},
               scratch, cpu);
  }

  // Beside bf16, probabilities and the gradients of scores are rounded to bf16 on their way into
  // products, and the latter are differences: twice the rounding of what is only rounded once.
  double gradient_tolerance() const {
    return dtype() == DType::bf16 ? 2e-2 : norm_tolerance(dtype());
  }

  // `condition`: how much more than a rounding the inputs make of one.
  void compare(const AttentionShape& s, test::Normal of_q_and_k = {}, double condition = 1.0) {
    SCOPED_TRACE(name_of_shape(s));
    const Inputs host = random_inputs(s, of_q_and_k);
    const Results expected = in_f64(s, host), actual = on_device(s, host);
    const auto error = [&](const OwnedTensor& found, const OwnedTensor& wanted) {
      return relative_error(*fetched(*found), *wanted);
    };
    EXPECT_LE(error(actual.out, expected.out), condition * norm_tolerance(dtype()));
    // Never rounded to bf16.
    EXPECT_LE(error(actual.log_sum_exp, expected.log_sum_exp), 1e-5);
    EXPECT_LE(error(actual.d_q, expected.d_q), condition * gradient_tolerance());
    EXPECT_LE(error(actual.d_k, expected.d_k), condition * gradient_tolerance());
    EXPECT_LE(error(actual.d_v, expected.d_v), condition * gradient_tolerance());
  }
};
INSTANTIATE_TEST_SUITE_P(All, AttentionDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

// Heads on both sides of what cuDNN takes, and of every padded width.
TEST_P(AttentionDevices, AgreesWithDoubleAtEveryHeadDim) {
  for (const std::int64_t head_dim : {1, 8, 17, 96, 100, 128, 136, 256}) {
    compare({2, 70, 70, 2, 2, head_dim});
  }
}

TEST_P(AttentionDevices, AgreesWithDoubleWithGroupedHeads) {
  compare({2, 130, 130, 4, 2, 64});
  compare({2, 75, 75, 6, 1, 128});
  compare({1, 70, 70, 6, 2, 20});
}

// Whole tiles, one query more or less, two queries, several tiles. (On a GPU every shape that cuDNN
// serves costs a second of compilation.)
TEST_P(AttentionDevices, AgreesWithDoubleAtEveryLength) {
  for (const std::int64_t length : {2, 63, 64, 129, 320}) compare({2, length, length, 2, 2, 64});
  for (const std::int64_t length : {2, 31, 65, 128}) compare({3, length, length, 2, 2, 20});
  compare({3, 257, 257, 3, 3, 128});
}

TEST_P(AttentionDevices, AgreesWithDoubleWithLongerKeys) {
  compare({2, 64, 128, 2, 2, 64});
  compare({1, 65, 200, 4, 2, 128});
  compare({2, 2, 300, 2, 1, 64});
  compare({1, 33, 90, 2, 2, 17});
}

// On a GPU other kernels than where a shape is prepared for.
TEST_P(AttentionDevices, AgreesWithDoubleUnprepared) {
  for (AttentionShape shape :
       {AttentionShape{2, 2, 2, 2, 2, 64}, AttentionShape{2, 130, 130, 4, 2, 64},
        AttentionShape{2, 64, 128, 2, 2, 64}, AttentionShape{1, 65, 200, 4, 2, 128},
        AttentionShape{3, 2, 300, 2, 1, 64}, AttentionShape{2, 200, 263, 2, 2, 96},
        AttentionShape{1, 33, 90, 2, 2, 17}, AttentionShape{2, 1, 40, 2, 2, 64}}) {
    SCOPED_TRACE(name_of_shape(shape));
    const Inputs host = random_inputs(shape);
    const Results expected = in_f64(shape, host);
    shape.unprepared = true;
    const OwnedTensor out = poisoned(query_shape(shape), dtype()),
                      log_sum_exp = poisoned(row_shape(shape), DType::f32);
    attention_forward(shape, *moved(*host.q), *moved(*host.k), *moved(*host.v), *out, *log_sum_exp,
                      arena(), stream());
    EXPECT_LE(relative_error(*fetched(*out), *expected.out), norm_tolerance(dtype()));
    EXPECT_LE(relative_error(*fetched(*log_sum_exp), *expected.log_sum_exp), 1e-5);
  }
}

TEST_P(AttentionDevices, AgreesWithDoubleWhenDecoding) {
  compare({2, 1, 137, 4, 2, 128});
  compare({1, 1, 1000, 8, 2, 64});
  compare({3, 1, 2, 2, 2, 17});
  compare({1, 1, 70, 2, 1, 256});
}

// Scores of about 100: their exponentials are beyond f32, and an f32 knows them to 1e-5.
TEST_P(AttentionDevices, AgreesWithDoubleOnLargeScores) {
  const double condition = dtype() == DType::bf16 ? 2.0 : 20.0;
  compare({2, 130, 130, 2, 2, 128}, {3.0, 1.0}, condition);
  compare({1, 1, 200, 2, 2, 128}, {3.0, 1.0}, condition);
  compare({1, 70, 70, 2, 1, 136}, {-3.0, 1.0}, condition);
}

// A lone key has the probability 1: out is v, and the score has no gradient.
TEST_P(AttentionDevices, SequenceOfOne) {
  const AttentionShape shape{3, 1, 1, 2, 2, 64};
  const Inputs host = random_inputs(shape);
  const Results actual = on_device(shape, host), expected = in_f64(shape, host);
  EXPECT_EQ(values_of(*fetched(*actual.out)), values_of(*host.v));
  EXPECT_LE(relative_error(*fetched(*actual.d_v), *expected.d_v), norm_tolerance(dtype()));
  EXPECT_LE(relative_error(*fetched(*actual.log_sum_exp), *expected.log_sum_exp), 1e-5);
  for (const OwnedTensor* gradient : {&actual.d_q, &actual.d_k}) {
    for (const double value : values_of(*fetched(**gradient))) EXPECT_LE(std::abs(value), 1e-4);
  }
}

TEST_P(AttentionDevices, NothingToAttend) {
  const AttentionShape no_batch{0, 5, 5, 2, 1, 64}, no_queries{2, 0, 3, 2, 1, 64};
  on_device(no_batch, random_inputs(no_batch));
  const Results actual = on_device(no_queries, random_inputs(no_queries));
  const std::vector<double> zeros(2 * 3 * 64, 0.0);
  EXPECT_EQ(values_of(*fetched(*actual.d_k)), zeros);
  EXPECT_EQ(values_of(*fetched(*actual.d_v)), zeros);
}

TEST_P(AttentionDevices, RepeatsItsBits) {
  for (const AttentionShape& shape :
       {AttentionShape{2, 300, 300, 4, 2, 64}, AttentionShape{2, 512, 512, 2, 2, 128},
        AttentionShape{1, 130, 200, 4, 4, 17}, AttentionShape{2, 1, 300, 4, 2, 128}}) {
    SCOPED_TRACE(name_of_shape(shape));
    const Inputs host = random_inputs(shape);
    const Results first = on_device(shape, host), second = on_device(shape, host);
    const auto same = [&](const OwnedTensor& a, const OwnedTensor& b) {
      return test::bitwise_equal(*fetched(*a), *fetched(*b));
    };
    EXPECT_TRUE(same(first.out, second.out));
    EXPECT_TRUE(same(first.log_sum_exp, second.log_sum_exp));
    EXPECT_TRUE(same(first.d_q, second.d_q));
    EXPECT_TRUE(same(first.d_k, second.d_k));
    EXPECT_TRUE(same(first.d_v, second.d_v));
  }
}

// A plan made on the meta device counts what the device takes.
TEST_P(AttentionDevices, TakesTheScratchOfThePlan) {
  for (const AttentionShape& shape :
       {AttentionShape{2, 300, 300, 4, 2, 64}, AttentionShape{2, 40, 40, 2, 2, 20}}) {
    SCOPED_TRACE(name_of_shape(shape));
    const std::size_t mark = arena().mark();
    arena().reset_high_water();
    on_device(shape, random_inputs(shape));
    const Device meta = Device::meta(device().type);
    Arena planned({.device = meta});
    Stream planning(meta);
    const auto sized = [&](const Shape& extents, DType type) {
      return OwnedTensor(extents, type, meta);
    };
    run(shape,
        {sized(query_shape(shape), dtype()), sized(key_shape(shape), dtype()),
         sized(key_shape(shape), dtype()), sized(query_shape(shape), dtype())},
        {sized(query_shape(shape), dtype()), sized(row_shape(shape), DType::f32),
         sized(query_shape(shape), dtype()), sized(key_shape(shape), dtype()),
         sized(key_shape(shape), dtype())},
        planned, planning);
    EXPECT_GT(planned.high_water(), 0u);
    EXPECT_EQ(arena().high_water() - mark, planned.high_water());
    EXPECT_EQ(arena().mark(), mark);
  }
}

/// The first row of each row's document, where the first sequence is one document and each of the
/// others has three long ones, of different lengths.
OwnedTensor starts_of_long_documents(const AttentionShape& shape) {
  const std::int64_t length = shape.query_length;
  std::vector<double> starts;
  for (std::int64_t sequence = 0; sequence < shape.batch; ++sequence) {
    const std::int64_t second = sequence == 0 ? length : length * 3 / 10 + 5 * sequence;
    const std::int64_t third = sequence == 0 ? length : length * 6 / 10 + 3 * sequence;
    for (std::int64_t row = 0; row < length; ++row)
      starts.push_back(static_cast<double>(row < second ? 0 : row < third ? second : third));
  }
  return test::tensor_of({shape.batch * length}, DType::i32, starts);
}

// What cuDNN does slice by slice, against the kernels of f32: slices of sequences and of heads, of
// whole windows and of the documents in them.
TEST_P(AttentionDevices, SlicesOfLongSequencesAgree) {
  if (dtype() != DType::bf16) GTEST_SKIP() << "only cuDNN takes slices, and only of bf16";
  for (const bool documents : {false, true})
    for (AttentionShape shape :
         {AttentionShape{5, 8192, 8192, 2, 2, 8}, AttentionShape{1, 8192, 8192, 10, 5, 8}}) {
      SCOPED_TRACE(name_of_shape(shape) + (documents ? ", documents" : ""));
      const cuda::AttentionSlice slice = cuda::backward_slice(shape);
      ASSERT_LT(slice.sequences * slice.kv_heads, shape.batch * shape.kv_heads);
      const OwnedTensor starts = moved(*starts_of_long_documents(shape), DType::i32);
      if (documents) shape.document_starts = *starts;
      Arena scratch({.device = device(), .capacity = std::size_t{3} << 29});
      const Inputs host = random_inputs(shape);
      const Results expected = on_device(shape, host, DType::f32, scratch);
      const Results actual = on_device(shape, host, DType::bf16, scratch);
      const auto error = [&](const OwnedTensor& found, const OwnedTensor& wanted) {
        return relative_error(*fetched(*found), *fetched(*wanted));
      };
      EXPECT_LE(error(actual.out, expected.out), norm_tolerance(dtype()));
      EXPECT_LE(error(actual.d_q, expected.d_q), gradient_tolerance());
      EXPECT_LE(error(actual.d_k, expected.d_k), gradient_tolerance());
      EXPECT_LE(error(actual.d_v, expected.d_v), gradient_tolerance());
    }
}

TEST(AttentionOnCuda, TakesSlicesOfAtMostOneGibibyte) {
  const auto slice = [](const AttentionShape& shape) {
    const cuda::AttentionSlice s = cuda::backward_slice(shape);
    return std::pair{s.sequences, s.kv_heads};
  };
  EXPECT_EQ(slice({8, 4096, 4096, 16, 16, 128}), (std::pair<std::int64_t, std::int64_t>{2, 16}));
  EXPECT_EQ(slice({1, 4096, 4096, 16, 16, 128}), (std::pair<std::int64_t, std::int64_t>{1, 16}));
  EXPECT_EQ(slice({4, 100, 100, 16, 2, 128}), (std::pair<std::int64_t, std::int64_t>{4, 2}));
  EXPECT_EQ(slice({2, 16384, 16384, 16, 8, 64}), (std::pair<std::int64_t, std::int64_t>{1, 1}));
  EXPECT_EQ(slice({2, 65536, 65536, 4, 4, 64}), (std::pair<std::int64_t, std::int64_t>{1, 1}));
}

TEST(AttentionOnCuda, RefusesWiderHeadsInThePlanToo) {
  const Device meta = Device::meta(DeviceType::cuda);
  Arena scratch({.device = meta});
  Stream stream(meta);
  const AttentionShape shape{1, 4, 4, 1, 1, 264};
  const OwnedTensor heads(query_shape(shape), DType::f32, meta),
      rows(row_shape(shape), DType::f32, meta);
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              attention_forward(shape, *heads, *heads, *heads, *heads, *rows, scratch, stream);
            }),
            "attention_forward: head_dim is 264, expected at most 256 on CUDA");
}

}  // namespace
}  // namespace polymoe
