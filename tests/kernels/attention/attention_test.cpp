// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention/attention.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "support/compare.h"
#include "support/fixture.h"
#include "support/gradient_check.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::poisoned_tensor;
using test::random_tensor;
using test::Tolerance;
using test::values_of;

// All tensors of one call; the outputs are poisoned.
struct Problem {
  Problem(const AttentionShape& s, DType dtype, test::Normal scores = {})
      : shape(s),
        q(random_tensor(query_shape(), dtype, "q", scores)),
        k(random_tensor(key_shape(), dtype, "k", scores)),
        v(random_tensor(key_shape(), dtype, "v")),
        d_out(random_tensor(query_shape(), dtype, "d_out")),
        out(poisoned_tensor(query_shape(), dtype)),
        log_sum_exp(poisoned_tensor({s.batch, s.heads, s.query_length}, dtype)),
        d_q(poisoned_tensor(query_shape(), dtype)),
        d_k(poisoned_tensor(key_shape(), dtype)),
        d_v(poisoned_tensor(key_shape(), dtype)) {}

  Shape query_shape() const {
    return {shape.batch * shape.query_length, shape.heads, shape.head_dim};
  }
  Shape key_shape() const {
    return {shape.batch * shape.key_length, shape.kv_heads, shape.head_dim};
  }
  void forward(Arena& scratch, Stream& stream) {
    attention_forward(shape, *q, *k, *v, *out, *log_sum_exp, scratch, stream);
  }
  void backward(Arena& scratch, Stream& stream) {
    attention_backward(shape, *d_out, *q, *k, *v, *out, *log_sum_exp, *d_q, *d_k, *d_v, scratch,
                       stream);
  }

  AttentionShape shape;
  OwnedTensor q, k, v, d_out, out, log_sum_exp, d_q, d_k, d_v;
};

// out and log_sum_exp by the definition, one query at a time.
std::pair<std::vector<double>, std::vector<double>> definition(const Problem& problem) {
  const AttentionShape& s = problem.shape;
  const std::vector<double> q = values_of(*problem.q), k = values_of(*problem.k),
                            v = values_of(*problem.v);
  std::vector<double> out(q.size()), log_sum_exp;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t h = 0; h < s.heads; ++h) {
      const std::int64_t g = h / (s.heads / s.kv_heads);
      for (std::int64_t i = 0; i < s.query_length; ++i) {
        const auto at =
            static_cast<std::size_t>(((b * s.query_length + i) * s.heads + h) * s.head_dim);
        const auto key = [&](std::int64_t j, std::size_t c) {
          return static_cast<std::size_t>(((b * s.key_length + j) * s.kv_heads + g) * s.head_dim) +
                 c;
        };
        const std::int64_t visible = s.key_length - s.query_length + i + 1;
        const auto dim = static_cast<std::size_t>(s.head_dim);
        std::vector<double> scores(static_cast<std::size_t>(visible), 0.0);
        for (std::int64_t j = 0; j < visible; ++j) {
          double& score = scores[static_cast<std::size_t>(j)];
          for (std::size_t c = 0; c < dim; ++c) score += q[at + c] * k[key(j, c)];
          score /= std::sqrt(static_cast<double>(s.head_dim));
        }
        const double maximum = *std::max_element(scores.begin(), scores.end());
        double sum = 0.0;
        for (const double score : scores) sum += std::exp(score - maximum);
        log_sum_exp.push_back(maximum + std::log(sum));
        for (std::int64_t j = 0; j < visible; ++j) {
          const double p = std::exp(scores[static_cast<std::size_t>(j)] - log_sum_exp.back());
          for (std::size_t c = 0; c < dim; ++c) out[at + c] += p * v[key(j, c)];
        }
      }
    }
  }
  return {out, log_sum_exp};
}

class Attention : public ::testing::TestWithParam<DType> {
 protected:
  Tolerance tolerance() const {
    return GetParam() == DType::f64 ? Tolerance{1e-11, 1e-12} : Tolerance{2e-5, 2e-6};
  }

  Arena scratch_{{.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true}};
  Stream stream_{Device::cpu()};
};

TEST_P(Attention, MatchesPyTorch) {
  const DType dtype = GetParam();
  const test::Fixture fixture("attention.txt");
  for (const std::string name : {"causal", "grouped", "longer_keys", "decoding"}) {
    const std::vector<double> sizes = fixture.values(name + ".shape");
    const auto size = [&](std::size_t i) { return static_cast<std::int64_t>(sizes[i]); };
    Problem problem({size(0), size(1), size(2), size(3), size(4), size(5)}, dtype);
    problem.q = fixture.tensor(name + ".q", dtype);
    problem.k = fixture.tensor(name + ".k", dtype);
    problem.v = fixture.tensor(name + ".v", dtype);
    problem.d_out = fixture.tensor(name + ".d_out", dtype);
    problem.forward(scratch_, stream_);
    problem.backward(scratch_, stream_);
    const auto expect = [&](const char* entry, const OwnedTensor& actual) {
      EXPECT_TRUE(all_close(*actual, *fixture.tensor(name + "." + entry, dtype), tolerance()))
          << name << " " << entry;
    };
    expect("out", problem.out);
    expect("log_sum_exp", problem.log_sum_exp);
    expect("d_q", problem.d_q);
    expect("d_k", problem.d_k);
    expect("d_v", problem.d_v);
  }
}

// Lengths beyond one tile of queries and of keys, odd, with grouped heads and longer keys.
TEST_P(Attention, IsTheDefinitionAcrossTiles) {
  for (const AttentionShape& shape :
       {AttentionShape{1, 300, 300, 2, 1, 17}, AttentionShape{2, 131, 700, 3, 3, 16},
        AttentionShape{1, 5, 1029, 4, 2, 8}, AttentionShape{2, 1, 1029, 4, 2, 24}}) {
    Problem problem(shape, GetParam());
    problem.forward(scratch_, stream_);
    const auto [out, log_sum_exp] = definition(problem);
    EXPECT_TRUE(all_close(values_of(*problem.out), out, tolerance())) << shape.query_length;
    EXPECT_TRUE(all_close(values_of(*problem.log_sum_exp), log_sum_exp, tolerance()))
        << shape.query_length;
  }
}

// Scaled scores of several thousand, far beyond the range of exp.
TEST_P(Attention, LargeScoresDoNotOverflow) {
  Problem problem({1, 140, 600, 2, 2, 16}, GetParam(), {0.0, 40.0});
  problem.forward(scratch_, stream_);
  problem.backward(scratch_, stream_);
  const auto [out, log_sum_exp] = definition(problem);
  // A score of size s has an error of s * epsilon, which the probabilities inherit.
  const double rounding = GetParam() == DType::f64 ? 1e-11 : 5e-3;
  EXPECT_TRUE(all_close(values_of(*problem.out), out, {0.0, rounding}));
  EXPECT_TRUE(all_close(values_of(*problem.log_sum_exp), log_sum_exp,
                        {GetParam() == DType::f64 ? 1e-13 : 1e-6, rounding}));
  for (const OwnedTensor* gradient : {&problem.d_q, &problem.d_k, &problem.d_v}) {
    for (const double value : values_of(**gradient)) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST_P(Attention, DecodingContinuesTheSequence) {
  const DType dtype = GetParam();
  const std::int64_t length = 70;
  Problem whole({1, length, length, 4, 2, 16}, dtype);
  whole.forward(scratch_, stream_);
  for (const std::int64_t position : {0, 1, 33, 69}) {
    Problem step({1, 1, position + 1, 4, 2, 16}, dtype);
    attention_forward(step.shape, whole.q->rows(position, position + 1),
                      whole.k->rows(0, position + 1), whole.v->rows(0, position + 1), *step.out,
                      *step.log_sum_exp, scratch_, stream_);
    EXPECT_TRUE(all_close(*step.out, whole.out->rows(position, position + 1), tolerance()));
  }
}

TEST_P(Attention, DoesNotDependOnTheNumberOfThreads) {
  const DType dtype = GetParam();
  const AttentionShape shape{2, 300, 530, 4, 2, 16};
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  Problem one(shape, dtype);
  one.forward(scratch_, stream_);
  one.backward(scratch_, stream_);
  omp_set_num_threads(3);
  Problem three(shape, dtype);
  three.forward(scratch_, stream_);
  three.backward(scratch_, stream_);
  omp_set_num_threads(threads);
  EXPECT_TRUE(bitwise_equal(*one.out, *three.out));
  EXPECT_TRUE(bitwise_equal(*one.d_q, *three.d_q));
  EXPECT_TRUE(bitwise_equal(*one.d_k, *three.d_k));
  EXPECT_TRUE(bitwise_equal(*one.d_v, *three.d_v));
}

TEST_P(Attention, NothingToDoIsFine) {
  const DType dtype = GetParam();
  Problem no_batch({0, 5, 5, 2, 1, 4}, dtype);
  EXPECT_NO_THROW(no_batch.forward(scratch_, stream_));
  EXPECT_NO_THROW(no_batch.backward(scratch_, stream_));
  Problem no_queries({2, 0, 3, 2, 1, 4}, dtype);
  EXPECT_NO_THROW(no_queries.forward(scratch_, stream_));
  no_queries.backward(scratch_, stream_);
  EXPECT_EQ(values_of(*no_queries.d_k), std::vector<double>(24, 0.0));
  EXPECT_EQ(values_of(*no_queries.d_v), std::vector<double>(24, 0.0));
}

INSTANTIATE_TEST_SUITE_P(All, Attention, ::testing::Values(DType::f32, DType::f64),
                         [](const auto& test) { return name_of(test.param); });

TEST(AttentionGradient, MatchesDifferences) {
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 26, .poison = true});
  Stream stream(Device::cpu());
  for (const AttentionShape& shape :
       {AttentionShape{2, 7, 7, 2, 2, 5}, AttentionShape{1, 4, 9, 4, 2, 3},
        AttentionShape{1, 140, 300, 2, 1, 4}, AttentionShape{2, 1, 6, 3, 1, 4}}) {
    Problem problem(shape, DType::f64);
    const auto loss = [&] {
      problem.forward(scratch, stream);
      return test::inner_product(*problem.d_out, *problem.out);
    };
    loss();
    problem.backward(scratch, stream);
    const test::GradientCheck check{.samples = 40};
    EXPECT_TRUE(test::gradient_matches("q", *problem.q, *problem.d_q, loss, check));
    EXPECT_TRUE(test::gradient_matches("k", *problem.k, *problem.d_k, loss, check));
    EXPECT_TRUE(test::gradient_matches("v", *problem.v, *problem.d_v, loss, check));
  }
}

TEST(AttentionPrecision, FloatFollowsDouble) {
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 28, .poison = true});
  Stream stream(Device::cpu());
  const AttentionShape shape{1, 600, 600, 4, 2, 32};
  Problem single(shape, DType::f32), twice(shape, DType::f64);
  for (Problem* problem : {&single, &twice}) {
    problem->forward(scratch, stream);
    problem->backward(scratch, stream);
  }
  const auto error = [](const OwnedTensor& actual, const OwnedTensor& expected) {
    return test::relative_error(*test::converted(*actual, DType::f64), *expected);
  };
  EXPECT_LT(error(single.out, twice.out), 1e-6);
  EXPECT_LT(error(single.d_q, twice.d_q), 1e-6);
  EXPECT_LT(error(single.d_k, twice.d_k), 1e-6);
  EXPECT_LT(error(single.d_v, twice.d_v), 1e-6);
}

TEST(AttentionErrors, NameTheFieldOrArgument) {
  Arena scratch({.device = Device::cpu(), .capacity = std::size_t{1} << 20, .poison = true});
  Stream stream(Device::cpu());
  Problem problem({1, 3, 3, 4, 2, 4}, DType::f32);
  const auto message = [&](const AttentionShape& shape) {
    problem.shape = shape;
    return test::message_of<InvalidArgument>([&] { problem.forward(scratch, stream); });
  };
  EXPECT_EQ(message({1, 3, 2, 4, 2, 4}),
            "attention_forward: key_length is 2, expected at least query_length = 3");
  EXPECT_EQ(message({1, 3, 3, 4, 3, 4}),
            "attention_forward: heads is 4, expected a multiple of kv_heads = 3");
  EXPECT_EQ(message({1, 3, 4, 4, 2, 4}),
            "attention_forward: k has shape [3, 2, 4], expected [4, 2, 4]");
  EXPECT_EQ(message({1, 3, 3, 4, 2, 4}), "");
}

TEST(AttentionOnMeta, TakesTheSameScratch) {
  for (const AttentionShape& shape :
       {AttentionShape{1, 300, 600, 4, 2, 16}, AttentionShape{2, 1, 600, 4, 2, 16}}) {
    std::size_t high_water[2] = {};
    for (const Device device : {Device::cpu(), Device::meta()}) {
      Arena scratch({.device = device, .capacity = std::size_t{1} << 28, .poison = false});
      Stream stream(device);
      const std::int64_t queries = shape.batch * shape.query_length;
      const OwnedTensor q({queries, 4, 16}, DType::f32, device);
      const OwnedTensor k({shape.batch * shape.key_length, 2, 16}, DType::f32, device);
      const OwnedTensor rows({shape.batch, 4, shape.query_length}, DType::f32, device);
      std::size_t& used = high_water[device == Device::meta() ? 1 : 0];
      attention_forward(shape, *q, *k, *k, *q, *rows, scratch, stream);
      used = scratch.high_water();
      scratch.reset_high_water();
      attention_backward(shape, *q, *q, *k, *k, *q, *rows, *q, *k, *k, scratch, stream);
      used = used * 1000003 + scratch.high_water();
      EXPECT_EQ(scratch.mark(), 0u);
    }
    EXPECT_GT(high_water[0], 0u);
    EXPECT_EQ(high_water[0], high_water[1]);
  }
}

}  // namespace
}  // namespace polymoe
