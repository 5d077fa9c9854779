// SPDX-License-Identifier: Apache-2.0
#include "parallel/checkpoint/stored_values.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

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

void check_reachable(const Tensor& values, const Stream& stream) {
  const Device device = values.device();
  const bool here = device.type == DeviceType::cpu || device == stream.device();
  if (here && device.type != DeviceType::meta) return;
  throw InvalidArgument("values on " + name_of(device) + " with a stream of " +
                        name_of(stream.device()) + ": a checkpoint needs them on the cpu or there");
}

/// Elements that fit both buffers.
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
    for (std::int64_t i = 0; i < elements; ++i) narrow[i] = bf16_of_float(values[i]);
  }
}

void HostPassage::write(const Tensor& from, DType dtype,
                        const std::function<void(const Tensor& part)>& write) {
  check_reachable(from, stream_);
  const bool on_host = from.device().type == DeviceType::cpu;
  const Tensor flat = from.view({from.elements()});
  if (on_host && from.dtype() == dtype) return write(flat);
  const std::int64_t most = part_of(from.dtype(), dtype);
  for (std::int64_t begin = 0; begin < flat.elements(); begin += most) {
    Tensor part = flat.rows(begin, std::min(begin + most, flat.elements()));
    if (!on_host) {
      const Tensor copied = view_of(first_, part.elements(), part.dtype());
      copy(part, copied, stream_);
      stream_.synchronize();
      part = copied;
    }
    if (part.dtype() != dtype) {
      const Tensor converted = view_of(second_, part.elements(), dtype);
      convert_values(part, converted);
      part = converted;
    }
    write(part);
  }
}

void HostPassage::put(const Tensor& values, const Tensor& to) {
  check_reachable(to, stream_);
  if (to.device().type == DeviceType::cpu) return convert_values(values, to);
  Tensor part = values;
  if (to.dtype() != part.dtype()) {
    part = view_of(second_, values.elements(), to.dtype());
    convert_values(values, part);
  }
  copy(part, to, stream_);
  stream_.synchronize();  // before the host memory is used again
}

void HostPassage::read(const Tensor& to, DType stored,
                       const std::function<void(std::int64_t begin, const Tensor& part)>& read) {
  check_reachable(to, stream_);
  const bool on_host = to.device().type == DeviceType::cpu;
  const Tensor flat = to.view({to.elements()});
  if (on_host && to.dtype() == stored) return read(0, flat);
  const std::int64_t most = part_of(to.dtype(), stored);
  for (std::int64_t begin = 0; begin < flat.elements(); begin += most) {
    const Tensor part = flat.rows(begin, std::min(begin + most, flat.elements()));
    const Tensor values = view_of(first_, part.elements(), stored);
    read(begin, values);
    put(values, part);
  }
}

}  // namespace polymoe
