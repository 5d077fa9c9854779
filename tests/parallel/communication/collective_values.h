// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "runtime/buffer.h"
#include "runtime/copy.h"
#include "runtime/random.h"
#include "tests/parallel/communication/collective_checks.h"

// What the collective checks send, where it lies, and what must arrive.
namespace polymoe {

template <class T>
Tensor tensor_of(std::vector<T>& values) {
  return {values.data(), {static_cast<std::int64_t>(values.size())}, dtype_of<T>(), Device::cpu()};
}

/// Host values where the bed's tensors lie: a view of them on the CPU, a copy on a device.
template <class T>
class Placed {
 public:
  Placed(const CollectiveBed& bed, std::vector<T>& values, Stream& stream)
      : host_(tensor_of(values)), stream_(stream) {
    if (bed.device.type == DeviceType::cpu) return;
    device_ = OwnedTensor(host_.shape(), host_.dtype(), bed.device);
    copy(host_, *device_, stream_);
    stream_.synchronize();
  }
  Tensor tensor() const { return device_->defined() ? *device_ : host_; }
  /// The host values become the tensor's.
  void fetch() {
    if (!device_->defined()) return;
    copy(*device_, host_, stream_);
    stream_.synchronize();
  }

 private:
  Tensor host_;
  Stream& stream_;
  OwnedTensor device_;
};

/// Places values, uses the tensor, fetches them.
template <class T, class Use>
void with_tensor(const CollectiveBed& bed, std::vector<T>& values, Stream& stream, Use use) {
  Placed<T> placed(bed, values, stream);
  use(placed.tensor());
  placed.fetch();
}

/// What rank `rank` contributes: of magnitudes far apart, so that the order of a sum shows.
template <class T>
std::vector<T> contribution(int rank, std::size_t count) {
  constexpr std::array magnitudes{1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3};
  std::uint64_t state = hash_of("rank" + std::to_string(rank));
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    if constexpr (std::is_integral_v<T>) {
      values[i] = static_cast<T>(state >> 8);
    } else {
      const double uniform = static_cast<double>(state >> 11) * 0x1.0p-52 - 1.0;
      values[i] = static_cast<T>(uniform * magnitudes[i % magnitudes.size()]);
    }
  }
  return values;
}

/// Rank by rank, from rank 0 on: bit for bit what a reduction must give.
template <class T>
std::vector<T> expected_reduction(int ranks, std::size_t count, Reduction reduction) {
  std::vector<T> result = contribution<T>(0, count);
  for (int rank = 1; rank < ranks; ++rank) {
    const std::vector<T> other = contribution<T>(rank, count);
    for (std::size_t i = 0; i < count; ++i) {
      result[i] =
          reduction == Reduction::sum ? result[i] + other[i] : std::max(result[i], other[i]);
    }
  }
  return result;
}

/// Bit for bit where sums have the order of the ranks, or two terms, which have only one; else to
/// rounding beside the largest terms.
template <class T>
bool same_sums(const CollectiveBed& bed, std::span<const T> values, std::span<const T> expected) {
  const int ranks = bed.world.size();
  double bound = 0.0;
  if (!bed.rank_order && ranks > 2 && !std::is_integral_v<T>) {
    bound = 1e3 * ranks * static_cast<double>(std::numeric_limits<T>::epsilon());
  }
  return std::equal(values.begin(), values.end(), expected.begin(), expected.end(),
                    [&](T a, T b) { return bound == 0.0 ? a == b : std::abs(a - b) <= bound; });
}

}  // namespace polymoe
