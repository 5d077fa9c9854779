// SPDX-License-Identifier: Apache-2.0
#include "launch/training/replica_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "moe/language_model.h"
#include "parallel/checkpoint/tensor_piece.h"
#include "parallel/communication/agreement.h"
#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "parallel/parameters/parameter_store.h"
#include "runtime/buffer.h"
#include "runtime/copy.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/files/hash.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace polymoe {
namespace {

struct Hashed {
  std::string name;
  std::int64_t hash = 0;
};

std::int64_t hash_of(const Tensor& values, Stream& stream) {
  const OwnedTensor host(values.shape(), values.dtype(), Device::cpu());
  copy(values, *host, stream);
  stream.synchronize();
  const std::string digits =
      xxh3_of({static_cast<const char*>(host->raw()), host->bytes()}).substr(0, 15);
  std::int64_t hash = 0;  // 60 of its bits
  std::from_chars(digits.data(), digits.data() + digits.size(), hash, 16);
  return hash;
}

/// "rank 2 holds other values of X than rank 0, 1, 3".
std::string difference(const std::string& name, const std::vector<std::int64_t>& hashes,
                       const std::vector<std::int64_t>& world_ranks) {
  std::map<std::int64_t, std::vector<std::int64_t>> ranks;  // by hash
  for (std::size_t i = 0; i < hashes.size(); ++i) ranks[hashes[i]].push_back(world_ranks[i]);
  const auto most = std::max_element(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) {
    return a.second.size() < b.second.size();
  });
  std::vector<std::int64_t> others;
  for (const auto& [hash, of_hash] : ranks)
    if (hash != most->first) others.insert(others.end(), of_hash.begin(), of_hash.end());
  std::sort(others.begin(), others.end());
  if (2 * most->second.size() <= hashes.size())
    return fmt::format("ranks {} hold different values of {}", fmt::join(world_ranks, ", "), name);
  return fmt::format("rank {} holds other values of {} than rank {}", fmt::join(others, ", "), name,
                     fmt::join(most->second, ", "));
}

/// What differs first; empty for nothing. Collective over `group`.
std::string first_difference(const std::vector<Hashed>& own, Communicator& group, int world_rank,
                             Stream& stream) {
  if (group.size() == 1 || own.empty()) return "";
  const auto count = static_cast<std::int64_t>(own.size());
  const auto at = static_cast<std::size_t>(group.rank());
  const OwnedTensor all({group.size(), count + 1}, DType::i64, Device::cpu());
  auto* values = all->data<std::int64_t>();
  const std::size_t width = own.size() + 1;
  values[at * width] = world_rank;
  for (std::size_t i = 0; i < own.size(); ++i) values[at * width + 1 + i] = own[i].hash;
  group.all_gather(*all, stream);
  const auto column = [&](std::size_t i) {
    std::vector<std::int64_t> of_ranks;
    for (std::size_t rank = 0; rank < static_cast<std::size_t>(group.size()); ++rank)
      of_ranks.push_back(values[rank * width + i]);
    return of_ranks;
  };
  for (std::size_t i = 0; i < own.size(); ++i) {
    const std::vector<std::int64_t> hashes = column(1 + i);
    if (std::adjacent_find(hashes.begin(), hashes.end(), std::not_equal_to<>()) != hashes.end())
      return difference(own[i].name, hashes, column(0));
  }
  return "";
}

}  // namespace

void check_replicas(const ParameterStore& store, LanguageModel& model, const ProcessMesh& mesh,
                    Stream& stream) {
  Communicator& world = mesh.world();
  std::string found;
  const auto compare = [&](const std::vector<Hashed>& own, Communicator& group) {
    const std::string one = first_difference(own, group, world.rank(), stream);
    if (found.empty()) found = one;
  };
  for (const ParameterScope scope : all_parameter_scopes) {
    std::vector<Hashed> own;
    const Tensor& values = store.values(scope);
    for (const LogicalRange& range : store.logical_ranges(scope, {0, values.elements()}))
      own.push_back(
          {range.tensor->name,
           hash_of(values.rows(range.flat_begin, range.flat_begin + range.count), stream)});
    compare(own, store.group(scope));
  }
  std::vector<Hashed> biases;
  for (const TensorPiece& piece : model.router_bias_pieces())
    biases.push_back({piece.name, hash_of(piece.data, stream)});
  compare(biases, world);
  on_every_rank(world, [&] {
    if (!found.empty())
      throw Error(found +
                  ", although they must be the same bits: a silent error of memory, device or "
                  "transport; go on from a checkpoint, without that machine");
  });
}

}  // namespace polymoe
