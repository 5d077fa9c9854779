// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <optional>

#include "runtime/dtype.h"
#include "runtime/progress.h"

namespace polymoe {

/// Writes the content of the checkpoint `from` as the checkpoint `to`, as `ranks` ranks with that
/// expert-parallel size would have saved it: the same pieces, the same bytes. `parameters`, f32 or
/// bf16, is the dtype in which it stores parameters, rounded to the nearest; nothing leaves every
/// dtype as it is. Of the configuration only parallel.expert changes. One piece, at most one
/// tensor, is in memory at a time. `to` appears when it is complete. Throws InvalidArgument when
/// the layout cannot hold the model or `to` exists, InputFileError when `from` is damaged or holds
/// what is not of its model, OutputFileError.
void convert_checkpoint(const std::filesystem::path& from, const std::filesystem::path& to,
                        int ranks, int expert_parallel,
                        std::optional<DType> parameters = std::nullopt,
                        const ProgressOutput& progress = {});

}  // namespace polymoe
