// SPDX-License-Identifier: Apache-2.0
#include "parallel/communication/planning/planning_communicator.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel/communication/communicator.h"
#include "parallel/communication/process_mesh.h"
#include "runtime/error.h"

namespace polymoe {

PlanningCommunicator::PlanningCommunicator(int rank, int size,
                                           std::vector<std::vector<int>> split_colors)
    : rank_(rank), size_(size), split_colors_(std::move(split_colors)) {
  if (rank < 0 || rank >= size) {
    throw InvalidArgument("rank " + std::to_string(rank) + " is not in [0, " +
                          std::to_string(size) + ")");
  }
  for (const auto& colors : split_colors_) {
    if (colors.size() != static_cast<std::size_t>(size)) {
      throw InvalidArgument("a split of " + std::to_string(size) + " ranks has " +
                            std::to_string(colors.size()) + " colors");
    }
  }
}

void PlanningCommunicator::all_to_all_counts(std::span<const std::int64_t> send,
                                             std::span<std::int64_t> receive) {
  if (send.size() != receive.size() || send.size() % static_cast<std::size_t>(size_) != 0) {
    throw InvalidArgument("all_to_all_counts: " + std::to_string(send.size()) +
                          " counts to send, " + std::to_string(receive.size()) +
                          " to receive; both must be the same " + "multiple of the group's size " +
                          std::to_string(size_));
  }
  std::copy(send.begin(), send.end(), receive.begin());
}

std::unique_ptr<Communicator> PlanningCommunicator::split(int color) {
  const auto self = static_cast<std::size_t>(rank_);
  if (splits_ >= split_colors_.size() || split_colors_[splits_][self] != color) {
    throw InvalidArgument("split " + std::to_string(splits_) + " with color " +
                          std::to_string(color) + " is not part of the plan");
  }
  const std::vector<int>& colors = split_colors_[splits_++];
  const auto before = std::count(colors.begin(), colors.begin() + rank_, color);
  const auto members = std::count(colors.begin(), colors.end(), color);
  return std::make_unique<PlanningCommunicator>(static_cast<int>(before), static_cast<int>(members),
                                                std::vector<std::vector<int>>{});
}

std::unique_ptr<Communicator> make_planning_world(int rank, int ranks, int expert_parallel,
                                                  int node_ranks) {
  if (expert_parallel < 1 || ranks < 1 || ranks % expert_parallel != 0) {
    throw InvalidArgument("parallel.expert = " + std::to_string(expert_parallel) +
                          " does not divide the number of ranks, " + std::to_string(ranks));
  }
  std::vector<int> expert, replicas, node, across;
  for (int r = 0; r < ranks; ++r) {
    expert.push_back(ProcessMesh::expert_color(r, expert_parallel));
    replicas.push_back(ProcessMesh::replicas_color(r, expert_parallel));
    if (!ProcessMesh::goes_by_node(expert_parallel, node_ranks)) continue;
    node.push_back(ProcessMesh::node_color(r, node_ranks));
    across.push_back(ProcessMesh::across_color(r, expert_parallel, node_ranks));
  }
  std::vector<std::vector<int>> colors{std::move(expert), std::move(replicas)};
  if (!node.empty()) {
    colors.push_back(std::move(node));
    colors.push_back(std::move(across));
  }
  return std::make_unique<PlanningCommunicator>(rank, ranks, std::move(colors));
}

}  // namespace polymoe
