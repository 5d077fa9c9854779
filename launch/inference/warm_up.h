// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch/step/pass_limits.h"
#include "moe/language_model.h"
#include "runtime/context.h"

namespace polymoe {

/// Computes passes as tasks are scored by, of about the sizes that come, from as many tokens as a
/// pass holds down to a few: a GPU loads kernels at their first call, and cuBLASLt proposes
/// algorithms. Whatever the parameters are will do, as long as they have memory: they may be read
/// in meanwhile, on another stream. Later results do not depend on it.
///
/// Returns when the passes are done. For models whose router drops no tokens (drops_tokens()).
/// Collective where ranks exchange rows.
void warm_up(LanguageModel& model, const PassLimits& limits, ExecutionContext& context);

}  // namespace polymoe
