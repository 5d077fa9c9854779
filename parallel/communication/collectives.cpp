// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/collectives.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "parallel/communication/collective.h"
#include "parallel/communication/transport.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/float16.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

constexpr std::size_t small_reduction_bytes = std::size_t{64} << 10;
constexpr std::size_t largest_chunk_bytes = std::size_t{1} << 20;  // per peer
constexpr std::size_t smallest_chunk_bytes = std::size_t{64} << 10;
constexpr std::size_t most_staging_bytes = std::size_t{8} << 20;  // for all peers together

std::byte* bytes_of(const Tensor& tensor) { return static_cast<std::byte*>(tensor.raw()); }

template <class T>
T larger(T a, T b) {
  return (b > a || b != b) ? b : a;  // a NaN of any rank stays
}

template <class T>
void combine_typed(std::span<const std::byte* const> contributions, std::size_t count,
                   Reduction reduction, std::byte* result) {
  constexpr std::size_t block = 512;
  std::array<T, block> partial;
  for (std::size_t begin = 0; begin < count; begin += block) {
    const std::size_t n = std::min(block, count - begin);
    std::memcpy(partial.data(), contributions[0] + begin * sizeof(T), n * sizeof(T));
    for (const std::byte* contribution : contributions.subspan(1)) {
      const T* other = reinterpret_cast<const T*>(contribution) + begin;
      if (reduction == Reduction::sum) {
        for (std::size_t i = 0; i < n; ++i) partial[i] += other[i];
      } else {
        for (std::size_t i = 0; i < n; ++i) partial[i] = larger(partial[i], other[i]);
      }
    }
    std::memcpy(result + begin * sizeof(T), partial.data(), n * sizeof(T));
  }
}

/// In f32, of which the result is rounded once.
void combine_bf16(std::span<const std::byte* const> contributions, std::size_t count,
                  Reduction reduction, std::byte* result) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto value_of = [i](const std::byte* contribution) {
      return float_of_bf16(reinterpret_cast<const std::uint16_t*>(contribution)[i]);
    };
    float value = value_of(contributions[0]);
    for (const std::byte* contribution : contributions.subspan(1)) {
      const float other = value_of(contribution);
      value = reduction == Reduction::sum ? value + other : larger(value, other);
    }
    reinterpret_cast<std::uint16_t*>(result)[i] = bf16_of_float(value);
  }
}

/// result = reduction of the contributions in their order; result may be one of them.
void combine(DType dtype, std::span<const std::byte* const> contributions, std::size_t count,
             Reduction reduction, std::byte* result) {
  switch (dtype) {
    case DType::f32:
      return combine_typed<float>(contributions, count, reduction, result);
    case DType::f64:
      return combine_typed<double>(contributions, count, reduction, result);
    case DType::bf16:
      return combine_bf16(contributions, count, reduction, result);
    default:
      return combine_typed<std::int64_t>(contributions, count, reduction, result);
  }
}

/// First element of slice p of `ranks` nearly equal slices.
std::size_t slice_begin(std::size_t elements, std::size_t p, std::size_t ranks) {
  return elements / ranks * p + std::min(p, elements % ranks);
}

/// Bytes of one peer's part of a large reduction that are received at a time.
std::size_t chunk_bytes_of(std::size_t ranks) {
  return std::clamp(most_staging_bytes / ranks, smallest_chunk_bytes, largest_chunk_bytes) / 64 *
         64;
}

}  // namespace

std::size_t staging_bytes(int ranks) {
  const auto peers = static_cast<std::size_t>(ranks);
  return ranks > 1 ? peers * chunk_bytes_of(peers) : 0;
}

std::byte* Collectives::staging(std::size_t bytes) {
  if (staging_.bytes() < bytes) staging_ = Buffer(bytes, Device::cpu());
  return static_cast<std::byte*>(staging_.data());
}

void Collectives::all_reduce(const Tensor& values, Reduction reduction) {
  const std::size_t bytes = values.bytes();
  if (bytes > small_reduction_bytes) {
    reduce_slices(values, reduction);
    gather_slices(values);
    return;
  }
  const auto ranks = static_cast<std::size_t>(transport_.size());
  std::byte* const received = staging(ranks * small_reduction_bytes);
  std::vector<const std::byte*> contributions(ranks);
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  for (int peer = 0; peer < transport_.size(); ++peer) {
    const auto p = static_cast<std::size_t>(peer);
    contributions[p] = peer == transport_.rank() ? bytes_of(values) : received + p * bytes;
    if (peer == transport_.rank()) continue;
    outgoing.push_back({peer, values.raw(), bytes});
    incoming.push_back({peer, received + p * bytes, bytes});
  }
  transport_.exchange(outgoing, incoming, deadline_);
  combine(values.dtype(), contributions, static_cast<std::size_t>(values.elements()), reduction,
          bytes_of(values));
}

void Collectives::reduce_scatter(const Tensor& values) { reduce_slices(values, Reduction::sum); }

void Collectives::all_gather(const Tensor& values) { gather_slices(values); }

void Collectives::reduce_slices(const Tensor& values, Reduction reduction) {
  const auto ranks = static_cast<std::size_t>(transport_.size());
  const auto self = static_cast<std::size_t>(transport_.rank());
  const auto elements = static_cast<std::size_t>(values.elements());
  const std::size_t width = size_of(values.dtype());
  const std::size_t chunk_bytes = chunk_bytes_of(ranks);
  const std::size_t chunk = chunk_bytes / width;
  std::byte* const received = staging(ranks * chunk_bytes);
  // Elements of chunk `first` of slice p; the last ones may be shorter or empty.
  const auto chunk_size = [&](std::size_t p, std::size_t first) {
    const std::size_t slice = slice_begin(elements, p + 1, ranks) - slice_begin(elements, p, ranks);
    return first < slice ? std::min(chunk, slice - first) : 0;
  };
  std::vector<const std::byte*> contributions(ranks);
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  for (std::size_t first = 0; chunk_size(0, first) > 0; first += chunk) {  // slice 0 is the longest
    outgoing.clear();
    incoming.clear();
    const std::size_t own_count = chunk_size(self, first);
    std::byte* const own = bytes_of(values) + (slice_begin(elements, self, ranks) + first) * width;
    for (std::size_t p = 0; p < ranks; ++p) {
      contributions[p] = p == self ? own : received + p * chunk_bytes;
      if (p == self) continue;
      const std::size_t begin = slice_begin(elements, p, ranks) + first;
      outgoing.push_back(
          {static_cast<int>(p), bytes_of(values) + begin * width, chunk_size(p, first) * width});
      incoming.push_back({static_cast<int>(p), received + p * chunk_bytes, own_count * width});
    }
    transport_.exchange(outgoing, incoming, deadline_);
    combine(values.dtype(), contributions, own_count, reduction, own);
  }
}

void Collectives::gather_slices(const Tensor& values) {
  const auto ranks = static_cast<std::size_t>(transport_.size());
  const auto elements = static_cast<std::size_t>(values.elements());
  const std::size_t width = size_of(values.dtype());
  const auto begin = [&](std::size_t p) { return slice_begin(elements, p, ranks) * width; };
  const auto self = static_cast<std::size_t>(transport_.rank());
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  for (std::size_t p = 0; p < ranks; ++p) {
    if (p == self) continue;
    const int peer = static_cast<int>(p);
    outgoing.push_back({peer, bytes_of(values) + begin(self), begin(self + 1) - begin(self)});
    incoming.push_back({peer, bytes_of(values) + begin(p), begin(p + 1) - begin(p)});
  }
  transport_.exchange(outgoing, incoming, deadline_);
}

void Collectives::all_to_all(const Tensor& send, std::span<const std::int64_t> send_rows,
                             const Tensor& receive, std::span<const std::int64_t> receive_rows) {
  const auto row_bytes =
      static_cast<std::size_t>(send.shape().with_first(1).elements()) * size_of(send.dtype());
  const std::byte* from = bytes_of(send);
  std::byte* to = bytes_of(receive);
  std::vector<Outgoing> outgoing;
  std::vector<Incoming> incoming;
  for (int peer = 0; peer < transport_.size(); ++peer) {
    const auto p = static_cast<std::size_t>(peer);
    const std::size_t out = static_cast<std::size_t>(send_rows[p]) * row_bytes;
    const std::size_t in = static_cast<std::size_t>(receive_rows[p]) * row_bytes;
    if (peer == transport_.rank()) {
      if (out > 0) std::memcpy(to, from, out);
    } else {
      outgoing.push_back({peer, from, out});
      incoming.push_back({peer, to, in});
    }
    from += out;
    to += in;
  }
  transport_.exchange(outgoing, incoming, deadline_);
}

void Collectives::broadcast(const Tensor& values, int root) {
  const int ranks = transport_.size();
  const int position = (transport_.rank() - root + ranks) % ranks;  // in the tree
  for (int reached = 1; reached < ranks; reached *= 2) {
    std::vector<Outgoing> outgoing;
    std::vector<Incoming> incoming;
    if (position < reached && position + reached < ranks) {
      outgoing.push_back({(position + reached + root) % ranks, values.raw(), values.bytes()});
    } else if (position >= reached && position < 2 * reached) {
      incoming.push_back({(position - reached + root) % ranks, values.raw(), values.bytes()});
    }
    transport_.exchange(outgoing, incoming, deadline_);
  }
}

void Collectives::barrier() {
  const int ranks = transport_.size();
  for (int distance = 1; distance < ranks; distance *= 2) {
    const std::byte token{1};
    std::byte answer{0};
    const std::array outgoing{Outgoing{(transport_.rank() + distance) % ranks, &token, 1}};
    const std::array incoming{Incoming{(transport_.rank() - distance + ranks) % ranks, &answer, 1}};
    transport_.exchange(outgoing, incoming, deadline_);
  }
}

}  // namespace polymoe
