// SPDX-License-Identifier: Apache-2.0
// The update, moments in bf16 and parameters in two parts, on every device.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/adamw/adamw.h"
#include "kernels/split_float/split_float.h"
#include "runtime/copy.h"
#include "runtime/float16.h"
#include "support/compare.h"
#include "support/devices.h"
#include "support/random_tensor.h"
#include "support/temporary_directory.h"

namespace polymoe {
namespace {

using test::bitwise_equal;
using test::converted;
using test::random_tensor;

const AdamWStep settings{
    .learning_rate = 0.01, .weight_decay = 0.1, .gradient_scale = 0.5, .step = 3};

// Values that bf16 holds, in f32 or bf16.
OwnedTensor narrow_values(std::int64_t count, DType dtype, const char* name, bool squared = false) {
  const OwnedTensor values = random_tensor({count}, DType::f64, name);
  for (std::int64_t i = 0; i < count && squared; ++i) {
    values->data<double>()[i] *= values->data<double>()[i];
  }
  return converted(*converted(*values, DType::bf16), dtype);
}

// Gradients are of the instance's dtype.
class AdamWDevices : public test::OnDevice {
 protected:
  struct State {
    OwnedTensor gradient, parameter, m, v;
    OwnedTensor high, low;  // the parameter in two parts
  };
  State start(std::int64_t count, DType moments) {
    State s{moved(*narrow_values(count, dtype(), "gradient")),
            moved(*random_tensor({count}, DType::f32, "parameter")),
            moved(*narrow_values(count, moments, "m")),
            moved(*narrow_values(count, moments, "v", true)),
            OwnedTensor({count}, DType::bf16, device()),
            OwnedTensor({count}, DType::u16, device())};
    split_floats(*s.parameter, *s.high, *s.low, stream());
    return s;
  }
  // From element `begin` on.
  void update(const State& s, std::int64_t begin = 0) {
    const auto rest = [begin](const OwnedTensor& t) { return t->rows(begin, t->elements()); };
    adamw(settings, rest(s.gradient), rest(s.parameter), {rest(s.m), rest(s.v)}, {}, stream());
  }
  void update_split(const State& s, std::int64_t begin = 0) {
    const auto rest = [begin](const OwnedTensor& t) { return t->rows(begin, t->elements()); };
    adamw(settings, rest(s.gradient), rest(s.high), {rest(s.m), rest(s.v)}, rest(s.low), stream());
  }
  // The patterns of 16 bits, on the CPU.
  std::vector<std::uint16_t> patterns(const Tensor& tensor) {
    std::vector<std::uint16_t> bits(static_cast<std::size_t>(tensor.elements()));
    copy(tensor, Tensor(bits.data(), tensor.shape(), tensor.dtype(), Device::cpu()), stream());
    stream().synchronize();
    return bits;
  }
};
INSTANTIATE_TEST_SUITE_P(All, AdamWDevices, ::testing::ValuesIn(test::placements()),
                         test::name_of_placement);

TEST_P(AdamWDevices, EqualsTheCpuInF64) {
  Stream cpu(Device::cpu());
  for (const std::int64_t count : {4096, 1003}) {
    const State s = start(count, dtype());
    const OwnedTensor gradient = fetched(*s.gradient), parameter = fetched(*s.parameter),
                      m = fetched(*s.m), v = fetched(*s.v);
    adamw(settings, *gradient, *parameter, {*m, *v}, {}, cpu);
    update(s);
    EXPECT_LE(test::relative_error(*fetched(*s.parameter), *parameter), 1e-5);
    EXPECT_LE(test::relative_error(*fetched(*s.m), *m), test::norm_tolerance(dtype()));
    EXPECT_LE(test::relative_error(*fetched(*s.v), *v), test::norm_tolerance(dtype()));
  }
}

TEST_P(AdamWDevices, AParameterInTwoPartsTakesTheSameBits) {
  for (const DType moments : {DType::f32, DType::bf16}) {
    for (const std::int64_t count : {0, 1, 7, 4096, 1003, 100003}) {
      for (const std::int64_t begin : {0, 1}) {
        if (begin >= count) continue;
        SCOPED_TRACE(std::to_string(count) + " from " + std::to_string(begin));
        const State whole = start(count, moments), split = start(count, moments);
        for (int step = 0; step < 3; ++step) {
          update(whole, begin);
          update_split(split, begin);
        }
        EXPECT_TRUE(bitwise_equal(*fetched(*split.m), *fetched(*whole.m)));
        EXPECT_TRUE(bitwise_equal(*fetched(*split.v), *fetched(*whole.v)));
        const std::vector<std::uint16_t> high = patterns(*split.high), low = patterns(*split.low);
        const std::vector<double> expected = test::values_of(*fetched(*whole.parameter));
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < high.size(); ++i) {
          wrong += join_float({high[i], low[i]}) == static_cast<float>(expected[i]) &&
                           high[i] == split_float(static_cast<float>(expected[i])).high
                       ? 0
                       : 1;
        }
        EXPECT_EQ(wrong, 0U);
        EXPECT_FALSE(
            bitwise_equal(fetched(*whole.parameter)->rows(begin, count),
                          converted(*random_tensor({count}, DType::f32, "parameter"), DType::f64)
                              ->rows(begin, count)));
      }
    }
  }
}

// One step from equal values: the update is the same, and what is kept is rounded once.
TEST_P(AdamWDevices, Bf16MomentsAreTheF32OnesToTheNearest) {
  for (const std::int64_t count : {1, 7, 4096, 100003}) {
    SCOPED_TRACE(count);
    const State wide = start(count, DType::f32), narrow = start(count, DType::bf16);
    update(wide);
    update(narrow);
    EXPECT_TRUE(bitwise_equal(*fetched(*narrow.parameter), *fetched(*wide.parameter)));
    EXPECT_TRUE(bitwise_equal(*fetched(*narrow.m),
                              *converted(*converted(*fetched(*wide.m), DType::bf16), DType::f64)));
    EXPECT_TRUE(bitwise_equal(*fetched(*narrow.v),
                              *converted(*converted(*fetched(*wide.v), DType::bf16), DType::f64)));
  }
}

TEST_P(AdamWDevices, SeveralStepsInBf16MomentsStayNearThoseInDouble) {
  constexpr std::int64_t count = 1003;
  const State s = start(count, DType::bf16);
  Stream cpu(Device::cpu());
  const OwnedTensor gradient = fetched(*s.gradient), parameter = fetched(*s.parameter),
                    m = fetched(*s.m), v = fetched(*s.v);
  for (int step = 0; step < 5; ++step) {
    update(s);
    adamw(settings, *gradient, *parameter, {*m, *v}, {}, cpu);
  }
  EXPECT_LE(test::relative_error(*fetched(*s.m), *m), 1e-2);
  EXPECT_LE(test::relative_error(*fetched(*s.v), *v), 1e-2);
  EXPECT_LE(test::relative_error(*fetched(*s.parameter), *parameter), 1e-3);
}

TEST_P(AdamWDevices, NanStaysNan) {
  constexpr std::int64_t count = 71;
  State s = start(count, DType::bf16);
  const OwnedTensor gradient = fetched(*s.gradient);
  for (const std::size_t at : {3, 70}) gradient->data<double>()[at] = NAN;
  s.gradient = moved(*gradient, dtype());
  update(s);
  update_split(s);
  for (const OwnedTensor* result : {&s.parameter, &s.m, &s.v, &s.high}) {
    const std::vector<double> values = test::values_of(*fetched(**result));
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(std::isnan(values[i]), i == 3 || i == 70) << i;
    }
  }
}

TEST_P(AdamWDevices, NamesWhatDoesNotFit) {
  const State s = start(8, DType::bf16), wide = start(8, DType::f32);
  const OwnedTensor shorter({7}, DType::u16, device());
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *s.gradient, *s.parameter, {*s.m, *s.v}, *s.low, stream());
            }),
            "adamw: parameter is f32, expected bf16");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *s.gradient, *s.high, {*s.m, *s.v}, *s.high, stream());
            }),
            "adamw: low is bf16, expected u16");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *s.gradient, *s.high, {*s.m, *s.v}, *shorter, stream());
            }),
            "adamw: low has shape [7], expected [8]");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *s.gradient, *s.high, {*s.m, *wide.v}, *s.low, stream());
            }),
            "adamw: moment2 is f32, expected bf16");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *s.gradient, *s.parameter, {*wide.m, *s.v}, {}, stream());
            }),
            "adamw: moment2 is bf16, expected f32");
  EXPECT_THROW(adamw(settings, *s.gradient, *s.high, {*s.m, *s.v}, {}, stream()), InvalidArgument);
}

TEST(AdamWDouble, TakesNothingNarrow) {
  Stream stream(Device::cpu());
  const OwnedTensor x({4}, DType::f64, Device::cpu()), narrow({4}, DType::bf16, Device::cpu());
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *x, *x, {*x, *x}, *narrow, stream);
            }),
            "adamw: parameter is f64, expected bf16");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *x, *x, {*narrow, *narrow}, {}, stream);
            }),
            "adamw: moment1 is bf16, expected f64");
  const OwnedTensor single({4}, DType::f32, Device::cpu());
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *narrow, *single, {*single, *single}, {}, stream);
            }),
            "adamw: gradient is bf16, expected f32");
}

}  // namespace
}  // namespace polymoe
