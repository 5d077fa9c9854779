// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "launch/config/config.h"
#include "launch/step/memory_plan.h"

namespace polymoe {

/// With train.micro_batch = 0, sets train.micro_batch_limit: the most sequences with which a rank's
/// plan fits `memory` bytes, but no more than keep the device busy (4096 tokens of a CPU, 65536 of
/// a GPU); 1 where not even that fits. Does nothing where a micro-batch is given. Throws
/// InvalidArgument listing the layout's violations.
void choose_micro_batch(Config& config, const PlannedLayout& layout, std::size_t memory);

/// What a rank may take of its memory: its part of the GPU, or of the host's memory among the ranks
/// of the node.
std::size_t memory_of_rank(Device device, int sharers);

/// Throws InvalidArgument with the plan's numbers and the keys that lower them when a rank of a CPU
/// needs more than `memory` bytes: the system ends a process that takes more without a word.
void require_host_memory(const MemoryPlan& plan, std::size_t memory);

}  // namespace polymoe
