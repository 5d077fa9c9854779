// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/expert_nodes.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "support/run_ranks.h"

namespace polymoe {
namespace {

using Hosts = std::vector<std::uint64_t>;

TEST(ExpertNodes, AreAsLargeAsNeighboursShareAHost) {
  EXPECT_EQ(ranks_that_share_a_node(Hosts{7, 7, 7, 7, 9, 9, 9, 9}, 8), 4);
  EXPECT_EQ(ranks_that_share_a_node(Hosts{7, 7, 7, 7, 9, 9, 9, 9}, 4), 4);  // in one node
  EXPECT_EQ(ranks_that_share_a_node(Hosts{7, 7, 7, 9, 9, 9}, 6), 3);
  // A group of four is in one node, the next one in two.
  EXPECT_EQ(ranks_that_share_a_node(Hosts{7, 7, 7, 7, 7, 7, 9, 9, 9, 9, 9, 9}, 4), 2);
  // Dealt out in turns: no neighbours.
  EXPECT_EQ(ranks_that_share_a_node(Hosts{7, 9, 7, 9}, 4), 1);
  EXPECT_EQ(ranks_that_share_a_node(Hosts{7, 7, 7, 9}, 4), 1);
  EXPECT_EQ(ranks_that_share_a_node(Hosts{7}, 1), 1);
}

TEST(ExpertNodes, AreWhatIsAskedForOrFound) {
  run_ranks(4, [](std::unique_ptr<Communicator> world) {
    EXPECT_EQ(node_ranks_of({.expert = 4, .expert_node = 2}, *world), 2);
    EXPECT_EQ(node_ranks_of({.expert = 4, .expert_node = 1}, *world), 1);
    EXPECT_EQ(node_ranks_of({.expert = 2, .expert_node = 0}, *world), 2);  // all are here
    world->shutdown();
  });
}

}  // namespace
}  // namespace polymoe
