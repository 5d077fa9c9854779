// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/config/config.h"
#include "runtime/device.h"
#include "runtime/dtype.h"

namespace polymoe {

/// A rank among those of its node.
struct NodeRank {
  int rank = 0;
  int ranks = 1;
};

/// The device of one rank: with `cuda` the GPU of the rank's number on its node, with `auto` the
/// same where this build and machine have a GPU, else the CPU. Ranks share GPUs only where
/// run.share_gpus says so. Throws InvalidArgument that says what is missing.
Device choose_device(const RunConfig& run, const NodeRank& node);

/// The part of choose_device that needs no GPU: `gpus` of the node are usable, and
/// `unavailable_reason` says why when there are none.
Device device_of_rank(const RunConfig& run, const NodeRank& node, int gpus,
                      const std::string& unavailable_reason);

/// Ranks of the node that work on the same GPU as this one; 1 on the CPU.
int device_sharers(Device device, const NodeRank& node);

/// What run.device plans for, without a rank: the backend of `polymoe plan`.
DeviceType planned_backend(const RunConfig& run);

/// Dtype of parameters and activations: train.precision, where auto is bf16 on GPUs and f32 on
/// CPUs. Throws InvalidArgument for bf16 on the CPU.
DType compute_dtype(Precision precision, DeviceType backend);

/// Dtype of weights' gradients, beside weights of compute_dtype(): optimizer.gradient_dtype. Throws
/// InvalidArgument for bf16 beside anything else.
DType gradient_dtype(const Config& config, DeviceType backend);

}  // namespace polymoe
