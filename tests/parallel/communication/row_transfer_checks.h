// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tests/parallel/communication/collective_checks.h"

namespace polymoe {

// Of collective_checks(): rows from every rank to every other, as the exchange of tokens sends
// them.

void check_all_to_all(const CollectiveBed& bed);
void check_counts(const CollectiveBed& bed);
/// Pieces of two dtypes, several for one peer, some empty; a piece comes from the middle of a
/// tensor.
void check_exchange(const CollectiveBed& bed);

}  // namespace polymoe
