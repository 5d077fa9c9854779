// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "parallel/checkpoint/manifest.h"
#include "parallel/checkpoint/names.h"
#include "parallel/checkpoint/reader.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/checkpoint/writer.h"
#include "runtime/buffer.h"
#include "runtime/random.h"
#include "tests/support/run_ranks.h"

namespace polymoe::test {

/// The tensors of a small model: no extent is a multiple of 4, one is empty, one is a scalar.
inline const std::vector<std::pair<std::string, Shape>> tensors = {
    {"parameter/embedding.weight", {33, 5}},
    {"parameter/layers.0.experts.0.up.weight", {7, 3, 2}},
    {"parameter/layers.0.experts.10.up.weight", {7, 3, 2}},
    {"moment1/layers.0.router.bias", {1}},
    {"moment2/empty", {0, 9}},
    {"scalar", {}},
};

template <class T>
T value_of(const std::string& name, std::int64_t i) {
  return static_cast<T>(1000 * RandomStream(3, name).normal(static_cast<std::uint64_t>(i)));
}

/// Pieces and the memory they view. An owned slice is [rank, rank + 1) / ranks of all elements laid
/// end to end, as the optimizer's slices are.
struct Holding {
  std::deque<OwnedTensor> memory;
  std::vector<TensorPiece> pieces;

  void add(const std::string& name, const Shape& shape, DType dtype, std::int64_t begin,
           std::int64_t end) {
    memory.emplace_back(Shape{end - begin}, dtype, Device::cpu());
    pieces.push_back({name, shape, begin, *memory.back()});
  }
};

inline Holding slices(int rank, int ranks, DType dtype) {
  std::int64_t total = 0;
  for (const auto& [name, shape] : tensors) total += shape.elements();
  const std::int64_t begin = total * rank / ranks, end = total * (rank + 1) / ranks;
  Holding holding;
  std::int64_t first = 0;
  for (const auto& [name, shape] : tensors) {
    const std::int64_t last = first + shape.elements();
    const std::int64_t from = std::clamp(begin, first, last), to = std::clamp(end, first, last);
    if (from < to || shape.elements() == 0)
      holding.add(name, shape, dtype, from - first, to - first);
    first = last;
  }
  return holding;
}

template <class T>
void fill(Holding& holding) {
  for (TensorPiece& piece : holding.pieces) {
    for (std::int64_t i = 0; i < piece.data.elements(); ++i) {
      piece.data.data<T>()[i] = value_of<T>(piece.name, piece.begin + i);
    }
  }
}

template <class T>
std::int64_t wrong_values(const Holding& holding) {
  std::int64_t wrong = 0;
  for (const TensorPiece& piece : holding.pieces) {
    for (std::int64_t i = 0; i < piece.data.elements(); ++i) {
      wrong += piece.data.data<T>()[i] != value_of<T>(piece.name, piece.begin + i);
    }
  }
  return wrong;
}

inline CheckpointInfo info_of(std::int64_t step) {
  return {.step = step,
          .tokens = step * 512,
          .ranks = 1,
          .expert_parallel = 1,
          .config = "[model]\nlayers = 2\n# \"quoted\"\n",
          .state = R"({"sample":12345678901,"bias":[0.1,-3e-05]})"};
}

template <class T = float>
std::filesystem::path save(const std::filesystem::path& root, std::int64_t step, int ranks) {
  run_ranks(ranks, [&](std::unique_ptr<Communicator> world) {
    Holding holding = slices(world->rank(), ranks, dtype_of<T>());
    fill<T>(holding);
    CheckpointInfo info = info_of(step);
    info.expert_parallel = ranks;
    save_checkpoint(root, info, holding.pieces, *world);
  });
  return root / checkpoint_name(step);
}

/// All tensors whole, as a rank reads its parameters.
template <class T = float>
std::int64_t wrong_after_reading(const std::filesystem::path& checkpoint) {
  Holding whole = slices(0, 1, dtype_of<T>());
  CheckpointReader(checkpoint).read(whole.pieces);
  return wrong_values<T>(whole);
}

inline std::vector<std::string> names_in(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace polymoe::test
