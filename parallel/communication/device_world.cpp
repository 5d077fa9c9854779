// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/device_world.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel/communication/communicator.h"
#include "parallel/communication/nccl/nccl_library.h"
#include "parallel/communication/staged_communicator.h"
#include "runtime/cuda/gpu.h"
#include "runtime/device.h"
#include "runtime/dtype.h"
#include "runtime/error.h"
#include "runtime/stream.h"
#include "runtime/system.h"

namespace polymoe {
namespace {

constexpr const char* group = "world";

/// A RankPlace as ranks send it to each other.
struct PlaceRecord {
  DeviceType type = DeviceType::cpu;
  std::array<char, 256> node{};
  std::array<char, 128> gpu{};
  std::array<char, 256> problem{};
};

template <std::size_t Size>
void store(const std::string& text, std::array<char, Size>& field) {
  std::memcpy(field.data(), text.data(), std::min(text.size(), Size - 1));
}

RankPlace place_on(Device device) {
  RankPlace place;
  place.type = device.type;
  place.node = host_name();
  try {
    if (device.type == DeviceType::cuda) place.gpu = cuda::gpu_identity(device.index);
  } catch (const DeviceError& error) {
    place.problem = name_of(device) + ": " + error.what();  // for all ranks to know
  }
  return place;
}

std::vector<RankPlace> exchange(Communicator& host, const RankPlace& own) {
  std::vector<PlaceRecord> records(static_cast<std::size_t>(host.size()));
  PlaceRecord& mine = records[static_cast<std::size_t>(host.rank())];
  mine.type = own.type;
  store(own.node, mine.node);
  store(own.gpu, mine.gpu);
  store(own.problem, mine.problem);
  Stream stream(Device::cpu());
  const auto bytes = static_cast<std::int64_t>(records.size() * sizeof(PlaceRecord));
  host.all_gather({records.data(), {bytes}, DType::u8, Device::cpu()}, stream);
  std::vector<RankPlace> places;
  for (const PlaceRecord& record : records) {
    places.push_back({record.type, record.node.data(), record.gpu.data(), record.problem.data()});
  }
  return places;
}

/// "0, 1, 2".
std::string listed(const std::vector<std::size_t>& ranks) {
  std::string text;
  for (const std::size_t rank : ranks) {
    text += (text.empty() ? "" : ", ") + std::to_string(rank);
  }
  return text;
}

void check_places(std::span<const RankPlace> ranks) {
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank].problem.empty()) continue;
    throw DeviceError("rank " + std::to_string(rank) + " on node " + ranks[rank].node +
                      " has no device: " + ranks[rank].problem);
  }
  const auto other = std::find_if(ranks.begin(), ranks.end(), [&](const RankPlace& place) {
    return place.type != ranks.front().type;
  });
  if (other == ranks.end()) return;
  const bool first_has = ranks.front().type == DeviceType::cuda;
  throw InvalidArgument("rank 0 computes on " + std::string(first_has ? "a GPU" : "the CPU") +
                        ", rank " + std::to_string(other - ranks.begin()) + " on " +
                        (first_has ? "the CPU" : "a GPU") + "; all ranks take the same kind");
}

}  // namespace

DeviceTransport choose_transport(std::span<const RankPlace> ranks, bool share_devices,
                                 bool with_nccl) {
  check_places(ranks);
  if (ranks.empty() || ranks.front().type != DeviceType::cuda) return DeviceTransport::host;
  std::map<std::string, std::vector<std::size_t>> ranks_on;
  std::map<std::string, std::set<std::string>> gpus_on;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    ranks_on[ranks[rank].node].push_back(rank);
    gpus_on[ranks[rank].node].insert(ranks[rank].gpu);
  }
  bool shared = false;
  for (const auto& [node, on_node] : ranks_on) {
    const std::size_t gpus = gpus_on[node].size();
    if (gpus == on_node.size()) continue;
    shared = true;
    if (share_devices) continue;
    throw InvalidArgument("ranks " + listed(on_node) + " on node " + node + " use " +
                          std::to_string(gpus) + (gpus == 1 ? " GPU" : " GPUs") +
                          "; each rank needs one of its own");
  }
  return !shared && with_nccl ? DeviceTransport::nccl : DeviceTransport::staged;
}

DeviceWorld make_device_world(std::unique_ptr<Communicator> host, Device device,
                              const DeviceWorldOptions& options) {
  const std::vector<RankPlace> ranks = exchange(*host, place_on(device));
  switch (choose_transport(ranks, options.share_devices, nccl::available())) {
    case DeviceTransport::host:
      return {std::move(host), "host memory"};
    case DeviceTransport::nccl:
      return {nccl::make_communicator(std::move(host), device, group, options.timeout_seconds,
                                      options.ledger),
              "NCCL " + nccl::version()};
    case DeviceTransport::staged:
      break;
  }
  return {std::make_unique<StagedCommunicator>(std::move(host), device, group),
          "host memory with pinned staging"};
}

}  // namespace polymoe
