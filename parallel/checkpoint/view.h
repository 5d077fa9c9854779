// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "parallel/checkpoint/manifest.h"

namespace polymoe {

/// Where the view shows a tensor: "parameter/layers.7.experts.17.up.weight" becomes
/// "/layers/7/experts/17/up/weight", "moment1/output.weight" becomes "/moment1/output/weight".
std::string view_path(std::string_view tensor);

/// A new HDF5 file that shows every tensor of a checkpoint in its full shape, wherever the pieces
/// lie: virtual datasets over the shards, for programs that read HDF5. polymoe never reads it. A
/// tensor without dimensions is shown with the shape [1]. Throws OutputFileError, also where one
/// tensor's path is another one's group.
void write_checkpoint_view(const std::filesystem::path& path, const CheckpointManifest& manifest);

}  // namespace polymoe
