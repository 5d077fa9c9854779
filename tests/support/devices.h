// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "runtime/arena.h"
#include "runtime/buffer.h"
#include "runtime/stream.h"

namespace polymoe::test {

/// Where an operation is tested, and the dtype of its tensors there.
struct Placement {
  DeviceType device = DeviceType::cpu;
  DType dtype = DType::f32;
};

/// CPU f32, CUDA f32, CUDA bf16; on a machine without a GPU too, where the latter report
/// themselves skipped.
const std::vector<Placement>& placements();
/// "cpu_f32", ...: names the instances of a parameterised test.
std::string name_of_placement(const ::testing::TestParamInfo<Placement>& info);

/// ||out - reference|| / ||reference|| that rounding explains: f64 1e-12, f32 1e-5, bf16 1e-2.
double norm_tolerance(DType dtype);

/// One test body over placements. Inputs are drawn on the CPU, rounded to the placement's dtype
/// and moved to the device; the reference is the CPU's f64 kernel on the same rounded values.
///
///   class RowSum : public test::OnDevice {};
///   INSTANTIATE_TEST_SUITE_P(Devices, RowSum, ::testing::ValuesIn(test::placements()),
///                            test::name_of_placement);
class OnDevice : public ::testing::TestWithParam<Placement> {
 protected:
  /// Skips with the reason where there is no such device.
  void SetUp() override;

  DType dtype() const { return GetParam().dtype; }
  /// What statistics, coefficients and their gradients are held in: f32 where dtype() is bf16.
  DType wide_dtype() const { return dtype() == DType::bf16 ? DType::f32 : dtype(); }
  Device device() const { return {GetParam().device, 0}; }
  Stream& stream() { return *stream_; }
  /// 256 MiB, poisoned.
  Arena& arena() { return *arena_; }

  /// The host tensor's values on the device, in its own dtype or another floating one.
  OwnedTensor moved(const Tensor& host);
  OwnedTensor moved(const Tensor& host, DType dtype);
  /// NaN everywhere (-1 in integers), on the device.
  OwnedTensor poisoned(const Shape& shape, DType dtype);
  /// Waits for the stream; the tensor's values on the CPU: f64 of floating dtypes, else unchanged.
  OwnedTensor fetched(const Tensor& tensor);

 private:
  std::optional<Stream> stream_;
  std::optional<Arena> arena_;
};

}  // namespace polymoe::test
