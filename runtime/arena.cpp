// SPDX-License-Identifier: Apache-2.0
#include "runtime/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "runtime/cuda/cuda_device.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/rounding.h"
#include "runtime/system.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

constexpr std::size_t alignment = 64;
// Memory is made usable in steps of this size: few system calls, little beyond the need.
constexpr std::size_t commit_step = std::size_t{8} << 20;

}  // namespace

Arena::Arena(const Options& options) : device_(options.device), poison_(options.poison) {
  if (device_.type == DeviceType::meta) {
    capacity_ = SIZE_MAX / 2;
    return;
  }
  if (device_.type == DeviceType::cuda) {
    capacity_ = committed_ = round_up(std::max<std::size_t>(options.capacity, 1), alignment);
    device_memory_ = Buffer(capacity_, device_);
    base_ = static_cast<std::byte*>(device_memory_.data());
    return;
  }
  capacity_ = round_up(std::max<std::size_t>(options.capacity, 1), commit_step);
  // What is reserved counts where address space is limited; the rest of the program needs some too.
  if (const auto left = address_space_left())
    capacity_ = std::min(capacity_, round_up(static_cast<std::size_t>(*left / 2), commit_step));
  void* range =
      mmap(nullptr, capacity_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) {
    throw DeviceError("cannot reserve " + std::to_string(capacity_) + " bytes of address space");
  }
  base_ = static_cast<std::byte*>(range);
  madvise(base_, capacity_, MADV_HUGEPAGE);  // advice only: small pages work too
}

Arena::~Arena() {
  if (device_.type == DeviceType::cpu) munmap(base_, capacity_);
}

void Arena::commit(std::size_t end) {
  const std::size_t target = round_up(end, commit_step);
  if (mprotect(base_ + committed_, target - committed_, PROT_READ | PROT_WRITE) != 0) {
    throw DeviceError("out of memory on cpu: the step's arena cannot grow to " +
                      std::to_string(target) + " bytes");
  }
  committed_ = target;
}

Tensor Arena::allocate(const Shape& shape, DType dtype) {
  const std::size_t bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  const std::size_t begin = top_;
  if (bytes > capacity_ - begin) {
    throw DeviceError("the step's arena is full: " + std::to_string(bytes) + " bytes wanted, " +
                      std::to_string(capacity_ - begin) + " of " + std::to_string(capacity_) +
                      " left; a smaller train.micro_batch needs less" +
                      (device_.type == DeviceType::cpu && address_space_left()
                           ? ", or a higher limit of address space (ulimit -v)"
                           : ""));
  }
  top_ = std::min(round_up(begin + bytes, alignment), capacity_);
  high_water_ = std::max(high_water_, top_);
  if (device_.type == DeviceType::meta) return {nullptr, shape, dtype, device_};
  if (top_ > committed_) commit(top_);
  // Bytes of ones are NaN in every floating-point type and -1 in every integer type.
  if (poison_ && bytes > 0) {
    if (device_.type == DeviceType::cuda) {
      // Any stream may still be using what this memory was, and any may use it next.
      cuda::synchronize_device(device_.index);
      cuda::fill_bytes(base_ + begin, 0xff, bytes, nullptr);
      cuda::synchronize_device(device_.index);
    } else {
      std::memset(base_ + begin, 0xff, bytes);
    }
  }
  return {base_ + begin, shape, dtype, device_};
}

void Arena::release(std::size_t mark) {
  assert(mark <= top_);
  top_ = mark;
}

}  // namespace polymoe
