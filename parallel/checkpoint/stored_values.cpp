// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/stored_values.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include "parallel/checkpoint/held_values.h"
#include "runtime/buffer.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/float16.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

constexpr std::size_t buffer_bytes = std::size_t{32} << 20;

bool is_f32_or_bf16(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

/// View of a buffer, which comes into being at its first.
Tensor view_of(Buffer& buffer, std::int64_t elements, DType dtype) {
  if (buffer.bytes() == 0) buffer = Buffer(buffer_bytes, Device::cpu());
  return buffer.tensor({elements}, dtype, 0);
}

bool is_on_host(const Tensor& tensor) { return tensor.device().type == DeviceType::cpu; }

void check_reachable(const HeldValues& held, const Stream& stream) {
  const Device device = held.values.device();
  const bool here = device.type == DeviceType::cpu || device == stream.device();
  const bool together = !held.split() || held.low.device() == device;
  if (here && together && device.type != DeviceType::meta) return;
  throw InvalidArgument("values on " + name_of(device) + " with a stream of " +
                        name_of(stream.device()) + ": a checkpoint needs them on the cpu or there");
}

/// The f32 values of their parts, and back. On the CPU; equal element counts, no overlap.
void join(const Tensor& high, const Tensor& low, const Tensor& to) {
  const auto* upper = static_cast<const std::uint16_t*>(high.raw());
  const auto* lower = low.data<std::uint16_t>();
  float* values = to.data<float>();
  for (std::int64_t i = 0; i < to.elements(); ++i) values[i] = join_float({upper[i], lower[i]});
}
void split(const Tensor& from, const Tensor& high, const Tensor& low) {
  auto* upper = static_cast<std::uint16_t*>(high.raw());
  auto* lower = low.data<std::uint16_t>();
  const bool narrow = from.dtype() == DType::bf16;
  const auto* patterns = static_cast<const std::uint16_t*>(from.raw());
  const auto* values = static_cast<const float*>(from.raw());
  for (std::int64_t i = 0; i < from.elements(); ++i) {
    const SplitFloat parts = narrow ? SplitFloat{patterns[i], 0} : split_float(values[i]);
    upper[i] = parts.high;
    lower[i] = parts.low;
  }
}

/// Elements that fit the buffers.
std::int64_t part_of(DType a, DType b) {
  return static_cast<std::int64_t>(buffer_bytes / std::max(size_of(a), size_of(b)));
}

}  // namespace

DType dtype_to_store(DType held) { return held == DType::bf16 ? DType::f32 : held; }

bool can_be_read_as(DType stored, DType held) {
  return stored == held || (is_f32_or_bf16(stored) && is_f32_or_bf16(held));
}

void convert_values(const Tensor& from, const Tensor& to) {
  if (!can_be_read_as(from.dtype(), to.dtype()) || from.elements() != to.elements()) {
    throw InvalidArgument(std::string("conversion of ") + name_of(from.dtype()) +
                          to_string(from.shape()) + " to " + name_of(to.dtype()) +
                          to_string(to.shape()));
  }
  const std::int64_t elements = from.elements();
  if (from.dtype() == to.dtype()) {
    if (elements > 0) std::memcpy(to.raw(), from.raw(), from.bytes());
  } else if (from.dtype() == DType::bf16) {
    const auto* values = static_cast<const std::uint16_t*>(from.raw());
    float* wide = to.data<float>();
    for (std::int64_t i = 0; i < elements; ++i) wide[i] = float_of_bf16(values[i]);
  } else {
    const float* values = from.data<float>();
    auto* narrow = static_cast<std::uint16_t*>(to.raw());
    for (std::int64_t i = 0; i < elements; ++i) narrow[i] = split_float(values[i]).high;
  }
}

Tensor HostPassage::on_host(const Tensor& tensor, Buffer& buffer) {
  if (is_on_host(tensor)) return tensor;
  const Tensor copied = view_of(buffer, tensor.elements(), tensor.dtype());
  copy(tensor, copied, stream_);
  stream_.synchronize();
  return copied;
}

void HostPassage::write(const HeldValues& from, DType dtype,
                        const std::function<void(const Tensor& part)>& write) {
  check_reachable(from, stream_);
  if (from.split() && dtype != DType::f32) {
    throw InvalidArgument(std::string("f32 values in two parts are written as f32, not as ") +
                          name_of(dtype));
  }
  const HeldValues flat = from.flat();
  if (is_on_host(flat.values) && !flat.split() && flat.dtype() == dtype) return write(flat.values);
  const std::int64_t most = part_of(flat.dtype(), dtype);
  for (std::int64_t begin = 0; begin < flat.elements(); begin += most) {
    const HeldValues held = flat.rows(begin, std::min(begin + most, flat.elements()));
    Tensor part = on_host(held.values, first_);
    if (held.split()) {
      const Tensor joined = view_of(second_, part.elements(), dtype);
      join(part, on_host(held.low, third_), joined);
      part = joined;
    } else if (part.dtype() != dtype) {
      const Tensor converted = view_of(second_, part.elements(), dtype);
      convert_values(part, converted);
      part = converted;
    }
    write(part);
  }
}

void HostPassage::put(const Tensor& values, const HeldValues& to) {
  check_reachable(to, stream_);
  const HeldValues flat = to.flat();
  if (is_on_host(flat.values))
    return flat.split() ? split(values, flat.values, flat.low)
                        : convert_values(values, flat.values);
  Tensor part = values;
  if (flat.split()) {
    part = view_of(second_, values.elements(), DType::bf16);
    const Tensor low = view_of(third_, values.elements(), DType::u16);
    split(values, part, low);
    copy(low, flat.low, stream_);
  } else if (flat.dtype() != part.dtype()) {
    part = view_of(second_, values.elements(), flat.dtype());
    convert_values(values, part);
  }
  copy(part, flat.values, stream_);
  stream_.synchronize();  // before the host memory is used again
}

void HostPassage::read(const HeldValues& to, DType stored,
                       const std::function<void(std::int64_t begin, const Tensor& part)>& read) {
  check_reachable(to, stream_);
  const HeldValues flat = to.flat();
  if (is_on_host(flat.values) && !flat.split() && flat.dtype() == stored)
    return read(0, flat.values);
  const std::int64_t most = part_of(flat.dtype(), stored);
  for (std::int64_t begin = 0; begin < flat.elements(); begin += most) {
    const HeldValues part = flat.rows(begin, std::min(begin + most, flat.elements()));
    const Tensor values = view_of(first_, part.elements(), stored);
    read(begin, values);
    put(values, part);
  }
}

}  // namespace polymoe
