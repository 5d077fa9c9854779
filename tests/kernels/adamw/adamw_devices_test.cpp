// SPDX-License-Identifier: Apache-2.0
// The update, moments in bf16 and the bf16 copy of the parameters, on every device.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/adamw/adamw.h"
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
    OwnedTensor gradient, parameter, m, v, rounded;
  };
  State start(std::int64_t count, DType moments) {
    return {moved(*narrow_values(count, dtype(), "gradient")),
            moved(*random_tensor({count}, DType::f32, "parameter")),
            moved(*narrow_values(count, moments, "m")),
            moved(*narrow_values(count, moments, "v", true)), poisoned({count}, DType::bf16)};
  }
  // From element `begin` on.
  void update(const State& s, std::int64_t begin = 0) {
    const auto rest = [begin](const OwnedTensor& t) { return t->rows(begin, t->elements()); };
    adamw(settings, rest(s.gradient), rest(s.parameter), {rest(s.m), rest(s.v)}, rest(s.rounded),
          stream());
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

TEST_P(AdamWDevices, RoundedIsTheUpdatedParameterToTheNearest) {
  for (const DType moments : {DType::f32, DType::bf16}) {
    for (const std::int64_t count : {0, 1, 7, 4096, 1003, 100003}) {
      for (const std::int64_t begin : {0, 1}) {
        if (begin >= count) continue;
        SCOPED_TRACE(std::to_string(count) + " from " + std::to_string(begin));
        const State with = start(count, moments), without = start(count, moments);
        update(with, begin);
        adamw(settings, without.gradient->rows(begin, count), without.parameter->rows(begin, count),
              {without.m->rows(begin, count), without.v->rows(begin, count)}, {}, stream());
        const OwnedTensor parameter = fetched(*with.parameter), rounded = fetched(*with.rounded);
        EXPECT_TRUE(bitwise_equal(*parameter, *fetched(*without.parameter)));
        EXPECT_TRUE(bitwise_equal(*fetched(*with.m), *fetched(*without.m)));
        EXPECT_TRUE(bitwise_equal(*fetched(*with.v), *fetched(*without.v)));
        const OwnedTensor nearest = converted(*converted(*parameter, DType::bf16), DType::f64);
        EXPECT_TRUE(bitwise_equal(rounded->rows(begin, count), nearest->rows(begin, count)));
        EXPECT_FALSE(
            bitwise_equal(parameter->rows(begin, count),
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
  for (const OwnedTensor* result : {&s.parameter, &s.m, &s.v, &s.rounded}) {
    const std::vector<double> values = test::values_of(*fetched(**result));
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(std::isnan(values[i]), i == 3 || i == 70) << i;
    }
  }
}

TEST_P(AdamWDevices, NamesWhatDoesNotFit) {
  const State s = start(8, DType::bf16), wide = start(8, DType::f32);
  const OwnedTensor shorter({7}, DType::bf16, device());
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *s.gradient, *s.parameter, {*s.m, *s.v}, *wide.parameter, stream());
            }),
            "adamw: rounded is f32, expected bf16");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *s.gradient, *s.parameter, {*s.m, *s.v}, *shorter, stream());
            }),
            "adamw: rounded has shape [7], expected [8]");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *s.gradient, *s.parameter, {*s.m, *wide.v}, *s.rounded, stream());
            }),
            "adamw: moment2 is f32, expected bf16");
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *s.gradient, *s.parameter, {*wide.m, *s.v}, *s.rounded, stream());
            }),
            "adamw: moment2 is bf16, expected f32");
  EXPECT_THROW(adamw(settings, *s.gradient, *s.rounded, {*s.m, *s.v}, {}, stream()),
               InvalidArgument);
}

TEST(AdamWDouble, TakesNothingNarrow) {
  Stream stream(Device::cpu());
  const OwnedTensor x({4}, DType::f64, Device::cpu()), narrow({4}, DType::bf16, Device::cpu());
  EXPECT_EQ(test::message_of<InvalidArgument>([&] {
              adamw(settings, *x, *x, {*x, *x}, *narrow, stream);
            }),
            "adamw: parameter is f64, expected f32");
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
