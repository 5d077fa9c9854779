// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "parallel/communication/communicator.h"

namespace polymoe::test {

/// Some steps of reduction, clipping and update on the toy parameters, with gradients that are sums
/// over a fixed global batch: norms and parameters equal those of plain loops over all parameters
/// on one rank, whatever the layout. Every rank calls it.
void check_sharded_training(std::unique_ptr<Communicator> world, int expert_parallel);

/// All gradients 1 after reduction: the norm is sqrt(number of parameters), each expert once.
void check_norm_counts_each_parameter_once(std::unique_ptr<Communicator> world,
                                           int expert_parallel);

}  // namespace polymoe::test
